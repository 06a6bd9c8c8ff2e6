# SPDX-License-Identifier: Apache-2.0
# Completion of imagefs(1) for bash. The command itself says what is possible (cmd/completion.h).
_imagefs() {
  local line=${COMP_LINE:0:COMP_POINT} words=() i
  # Bash also splits words at colons and equals signs; only blanks separate arguments.
  for ((i = 0; i <= COMP_CWORD; i++)); do
    if [[ $i = 0 || $line = [[:space:]]* ]]; then
      words+=('')
      line=${line#"${line%%[![:space:]]*}"}
    fi
    words[-1]+=${COMP_WORDS[i]}
    line=${line#"${COMP_WORDS[i]}"}
  done
  # What bash leaves in place before the completed part.
  local kept=${words[-1]} part=${COMP_WORDS[COMP_CWORD]}
  [[ $part = [:=] ]] || kept=${kept%"$part"}
  local candidates=() candidate quoted
  mapfile -t candidates < <("${words[0]}" __complete "${words[@]:1}" 2>/dev/null)
  COMPREPLY=()
  for candidate in ${candidates[@]+"${candidates[@]}"}; do
    case $candidate in
      :words) ;;
      :files) compopt -o default 2>/dev/null ;;
      :directories) compopt -o dirnames 2>/dev/null ;;
      *)
        candidate=${candidate%%$'\t'*}
        printf -v quoted '%q' "${candidate#"$kept"}"
        COMPREPLY+=("$quoted")
        ;;
    esac
  done
}
complete -F _imagefs imagefs
