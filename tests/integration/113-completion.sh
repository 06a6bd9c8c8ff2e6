#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Completion as bash, zsh and fish do it when Tab is pressed: verbs, options, values, mounts and images; it starts no
# daemon and waits for none.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse; need bash; need zsh; need fish
image plain
ref=oci:$T/images/plain
mkdir "$M/a" "$M/with space" "$T/bin" "$T/zsh" "$T/files"
touch "$T/files/one.json"
ln -s "$IMAGEFS" "$T/bin/imagefs"
export PATH=$T/bin:$PATH HOME=$T
unset IMAGEFS_CONFIG IMAGEFS_CA_FILE

# Nothing is started for it.
store="--root $ROOT --run $RUN"
complete_() { timeout 20 imagefs __complete --root "$ROOT" --run "$RUN" "$@"; }
same "without a daemon" ":directories" "$(complete_ umount '')"
same "images without a daemon" ":words" "$(complete_ rm '')"
[ -z "$(daemons)" ] || fail "a daemon was started"
[ ! -e "$ROOT" ] || fail "a store was made"

ifs mount -q "$ref" "$M/a" >/dev/null
ifs mount -q "$ref" "$M/with space" >/dev/null
printf '%s\t%s\n' "$M/a" "$ref" "$M/with space" "$ref" >"$T/expected"
echo :words >>"$T/expected"
same "mounts" "$(cat "$T/expected")" "$(complete_ umount '')"
same "one" "$M/a"$'\t'"$ref"$'\n:words' "$(complete_ status "$M/a")"
same "one after an equals sign" "--wait=$M/a"$'\t'"$ref"$'\n:words' "$(complete_ pull "--wait=$M/a")"
same "images" "$ref" "$(complete_ inspect '' | cut -f1 | head -1)"
same "no image" ":words" "$(complete_ inspect docker.io/)"

# As the shells have it. fish tells without a terminal.
cat >"$T/bashrc" <<SH
. "$SOURCE/completions/imagefs.bash"
SH
cat >"$T/zsh/.zshrc" <<SH
fpath=("$SOURCE/completions" \$fpath)
autoload -Uz compinit && compinit -u -D
bindkey -e
SH
in_bash() { $PY "$LIB/complete_line.py" bash --noprofile --rcfile "$T/bashrc" -i -- "$1"; }
in_zsh() { ZDOTDIR=$T/zsh $PY "$LIB/complete_line.py" zsh -i -- "$1"; }
in_fish() {
  fish --no-config -c 'source $argv[1]; complete -C $argv[2]' "$SOURCE/completions/imagefs.fish" "$1" | cut -f1
}
for shell in bash zsh; do
  same "$shell: a verb" "imagefs umount" "$(in_$shell 'imagefs umou')"
  same "$shell: an option" "imagefs mount --plain-http" "$(in_$shell 'imagefs mount --plai')"
  same "$shell: a value" "imagefs mount --mode kernel" "$(in_$shell 'imagefs mount --mode k')"
  same "$shell: a value after =" "imagefs mount --mode=kernel" "$(in_$shell 'imagefs mount --mode=k')"
  same "$shell: a mount" "imagefs $store umount $M/a" "$(in_$shell "imagefs $store umount $M/a")"
  same "$shell: a mount with a space" "imagefs $store umount $M/with space" "$(in_$shell "imagefs $store umount $M/w")"
  same "$shell: an image" "imagefs $store rm $ref" "$(in_$shell "imagefs $store rm oci:$T/im")"
  same "$shell: a file" "imagefs login --authfile $T/files/one.json" "$(in_$shell "imagefs login --authfile $T/files/o")"
done
same "fish: a verb" umount "$(in_fish 'imagefs umou')"
same "fish: a value" kernel "$(in_fish 'imagefs mount --mode k')"
same "fish: a value after =" --mode=kernel "$(in_fish 'imagefs mount --mode=k')"
same "fish: a mount" "$M/a" "$(in_fish "imagefs $store umount $M/a")"
same "fish: an image" "$ref" "$(in_fish "imagefs $store rm oci:")"
same "fish: a file" "$T/files/one.json" "$(in_fish "imagefs login --authfile $T/files/o")"
same "fish: a file after =" "--authfile=$T/files/one.json" "$(in_fish "imagefs login --authfile=$T/files/o")"
verbs=$("$IMAGEFS" --help | sed -n '/^Subcommands:/,$s/^  \([a-z-]*\) .*/\1/p' | sort)
same "fish: all verbs" "$verbs" "$(in_fish 'imagefs ' | sort)"

# A daemon that hangs does not hold up anybody.
pid=$(daemons)
kill -STOP "$pid"
same "while it hangs" ":directories" "$(complete_ umount '' 2>"$T/err")"
kill -CONT "$pid"
same "what it says" "" "$(cat "$T/err")"
ifs umount --all
