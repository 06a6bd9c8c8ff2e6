# SPDX-License-Identifier: Apache-2.0
# Completion of imagefs(1) for bash. What can be completed is what the command's own help says, so that it is
# never older than the command.
_imagefs() {
  local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} program=${COMP_WORDS[0]}
  local word verb='' takes help choices
  # The first word that is neither an option nor its value is the verb.
  takes=' --root --run --log-level --ca-file --config --check-config '
  local i
  for ((i = 1; i < COMP_CWORD; i++)); do
    word=${COMP_WORDS[i]}
    if [[ $takes == *" $word "* ]]; then
      ((i++))
    elif [[ $word != -* ]]; then
      verb=$word
      break
    fi
  done
  COMPREPLY=()
  if [[ -z $verb || ($verb == help && $cur != -*) ]]; then
    help=$("$program" --help 2>/dev/null) || return
    word=$(sed -n '/^Subcommands:/,$s/^  \([a-z-]*\) .*/\1/p' <<<"$help")
  else
    help=$("$program" help "$verb" 2>/dev/null) || return
    word=$(sed -n 's/^  [A-Z]* [A-Z]*:{\([^}]*\)} REQUIRED.*/\1/p' <<<"$help" | tr , ' ')
    help+=$'\n'$("$program" --help 2>/dev/null)
  fi
  # --mode TEXT:{auto,kernel,fuse}
  choices=''
  if [[ $prev =~ ^--[a-z-]+$ ]]; then
    choices=$(sed -n "s/^  \(-[a-zA-Z],\)\?$prev [A-Z]*:{\([^}]*\)}.*/\2/p" <<<"$help" | tr , ' ')
  fi
  if [[ -n $choices ]]; then
    COMPREPLY=($(compgen -W "$choices" -- "$cur"))
  elif [[ $cur == -* ]]; then
    choices=$(sed -n 's/^  \(-[a-zA-Z],\)\?\(--[a-z-]*\).*/\2/p' <<<"$help")
    COMPREPLY=($(compgen -W "$choices" -- "$cur"))
  elif [[ -z $verb || $prev == "$verb" ]]; then
    COMPREPLY=($(compgen -W "$word" -- "$cur"))
  fi
}
# Nothing found: names of files and directories.
complete -o default -F _imagefs imagefs
