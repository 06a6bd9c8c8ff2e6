#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The manual pages and the completion say what the command's help says: every verb, every option, every word
# that an option takes, and nothing else.
. "$(dirname "$0")/../lib/lib.sh"
need bash
options_of() { sed -nE 's/^  (-[a-zA-Z0-9],)?(--[a-z-]+).*/\2/p'; }   # of a help text
"$IMAGEFS" --help >"$T/help"
verbs=$(sed -n '/^Subcommands:/,$s/^  \([a-z-]*\) .*/\1/p' "$T/help")
[ "$(wc -w <<<"$verbs")" -ge 14 ] || fail "verbs are not found in the help: $verbs"
options_of <"$T/help" >"$T/global"
for verb in $verbs; do "$IMAGEFS" help "$verb" >"$T/help.$verb"; options_of <"$T/help.$verb" >"$T/options.$verb"; done

# The completion, as bash calls it.
. "$SOURCE/completions/imagefs.bash"
completed() {  # completed WORD...: what the last word can become
  COMP_WORDS=("$IMAGEFS" "$@") COMP_CWORD=$# COMP_LINE="$IMAGEFS $*" COMPREPLY=()
  COMP_POINT=${#COMP_LINE}
  _imagefs || true   # compgen: nothing found
  printf '%s\n' ${COMPREPLY[@]+"${COMPREPLY[@]}"}
}
same "verbs" "$(sort <<<"$verbs")" "$(completed '' | sort)"
same "verbs of help" "$(sort <<<"$verbs")" "$(completed help '' | sort)"
for verb in $verbs; do
  same "options of $verb" "$(sort -u "$T/options.$verb" "$T/global")" "$(completed "$verb" -- | sort -u)"
done
same "after a global option" mount "$(completed --root /x --json mou)"
same "words of --mode" "auto kernel fuse" "$(completed mount --mode '' | xargs)"
same "words of --log-level" "debug info warning error" "$(completed --log-level '' | xargs)"
same "words of profile" "show export import clear" "$(completed profile '' | xargs)"
same "file names are bash's" "" "$(completed ls /)"
complete -p imagefs | grep -q -- '-F _imagefs' || fail "bash is not told of the completion"

# imagefs(1): mdoc's `.Fl -name` is --name, `.It Cm verb` a verb.
page=$SOURCE/docs/man/imagefs.1
cat "$T"/options.* "$T/global" | sort -u >"$T/options"
grep -oE '(Fl|,) -[a-z][a-z-]*' "$page" | sed -E 's/^(Fl|,) /-/' | sort -u >"$T/page"
diff "$T/options" "$T/page" || fail "imagefs(1) has other options than the help (<)"
same "verbs of imagefs(1)" "$(sort <<<"$verbs")" \
  "$(sed -n '/^.Ss Verbs/,/^.El/s/^.It Cm \([a-z-]*\).*/\1/p' "$page" | sort)"
"$IMAGEFS" help daemon | options_of | while read -r option; do
  [ "$option" = --help ] || grep -qE "Fl ${option#-}" "$SOURCE/docs/man/imagefsd.8" || fail "imagefsd(8) lacks $option"
done

# mount.imagefs(8): the helper takes every word of it.
ln -s "$IMAGEFS" "$T/mount.imagefs"
words=$(sed -n '/^.Sh MOUNT OPTIONS/,/^.El/s/^.It Cm //p' "$SOURCE/docs/man/mount.imagefs.8" | tr -d ' ' | tr , '\n' |
  sed -E 's/=Ns.*/=/')
[ "$(wc -w <<<"$words")" -ge 20 ] || fail "words are not found in mount.imagefs(8): $words"
# Something that each of them takes.
value_of() {
  case $1 in
    mode= | pull=) sed -nE "s/^.It Cm $1 Ns Cm ([a-z]+) .*/\1/p" "$SOURCE/docs/man/mount.imagefs.8" ;;
    deadline=) echo 5 ;;
    platform=) echo linux/arm64 ;;
    uid= | gid=) echo root ;;
    umask= | fmask= | dmask=) echo 022 ;;
    *=) echo /x ;;
  esac
}
for word in $words; do
  more=$word$(value_of "$word")
  case $word in upper=) more=$more,writable ;; esac
  "$T/mount.imagefs" -f alpine /mnt -o "$more" || fail "mount.imagefs refuses $more"
done
# `-o` of the command takes the same words but four, which are global options there, and one that is not for layouts.
for word in $words; do
  case $word in root= | run= | config= | ca-file= | authfile=) refused=yes ;; *) refused=no ;; esac
  more=$word$(value_of "$word")
  case $word in upper=) more=$more,writable ;; context= | map-uids=) more=$more,ro ;; esac
  got=0
  "$IMAGEFS" --root "$ROOT" --run "$RUN" mount -q -o "$more" "oci:$T/none" "$T" 2>"$T/err" || got=$?
  same "imagefs mount -o $more is wrong usage (status $got): $(cat "$T/err")" $refused "$([ $got = 2 ] && echo yes || echo no)"
done

# imagefs-config.toml(5): each name with its default is a configuration that the daemon accepts.
page=$SOURCE/docs/man/imagefs-config.toml.5
sed -nE 's/^.Ss (\[[a-z]+\]).*/\1/p; s/^.It Cm ([a-z_]+) No = (Qq ?)?(.*)/\1 = \2\3/p' "$page" |
  sed -E 's/= Qq ?(.*)/= "\1"/; s/\\\(dq/"/g' >"$T/config.toml"
"$IMAGEFS" --root "$T/r" --run "$T/u" --config "$T/config.toml" images >/dev/null || { cat "$T/config.toml"; fail "refused"; }
"$IMAGEFS" --root "$T/r" --run "$T/u" stop
# The file that the package installs has the same names and defaults, as comments.
same "packaging/config.toml" "$(sed 's/ *$//' "$T/config.toml")" \
  "$(sed -nE 's/^#(\[|[a-z_]+ = )/\1/p' "$SOURCE/packaging/config.toml")"
# The names are all that the daemon knows.
same "settings" "$(grep -oE '[{]"[a-z_]+", [A-Z][A-Za-z]*[(]' "$SOURCE/cmd/config.cc" | grep -oE '"[a-z_]+"' | tr -d '"' | sort -u)" \
  "$(grep -oE '^[a-z_]+' "$T/config.toml" | sort -u)"
ifs stop
