#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# --rw without root: refused where the user may not mount, and an overlay in the user's own mount namespace otherwise,
# whichever daemon serves what is below it. What is written goes with the mount, or stays in --upper.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_root; need unshare
home='' uid=''
need_user
as_user unshare -rm true 2>/dev/null || skip "this machine lets users make no user namespace"
$PY - "$LIB" "$T/images/plain" <<'P'
import sys
sys.path.insert(0, sys.argv[1])
from oci import *
simple_image(sys.argv[2], [Tar().dir("etc", mode=0o755).file("etc/conf", b"of the image\n").file("etc/gone", b"x")
    .file("other", b"of another\n", mode=0o644, uid=33, gid=33)])
P
chmod -R go+rX "$T/images"
mkdir "$home/n"
chown "$uid" "$home/m" "$home/n"
ref=oci:$T/images/plain
user() { as_user "$IMAGEFS" --root "$home/root" --run "$home/run" "$@"; }
in_namespace() {
  local before="ifs() { '$IMAGEFS' --root '$home/root' --run '$home/run' \"\$@\"; }; home=$home ref=$ref T=$T"
  as_user unshare "$1" bash -c "set -e; $(declare -f same fail)"$'\n'"$before"$'\n'"$2"
}

refuse 5 'needs root; use imagefs run, or mount as root of a user namespace .unshare -rm.' user mount -q --rw "$ref" "$home/m"
[ -z "$(user images -q)" ] || fail "something was fetched before the refusal"
! in_namespace -r 'ifs mount -q --rw "$ref" "$home/m"' 2>"$T/err" || fail "writable without a mount namespace"
grep -q 'unshare -rm' "$T/err" || fail "$(cat "$T/err")"

in='ifs mount -q --rw "$ref" "$home/m" >/dev/null
  same "listed" "fuse rw" "$(ifs ls -n -o mode,rw "$home/m" | xargs)"
  same "an overlay" overlay "$(awk -v d="$home/m" "\$2 == d {print \$3}" /proc/mounts)"
  cd "$home/m"
  echo new >new; echo more >>etc/conf; rm etc/gone; mkdir -p dir/in; chmod 0 dir/in
  same "what is there" "etc/conf" "$(echo etc/*)"
  same "of the image and new" "of the image more" "$(xargs <etc/conf)"
  same "of another" "of another" "$(cat other)"
  ! { echo x >>other; } 2>/dev/null || fail "a file of nobody'"'"'s is writable"
  cd /
  ifs umount "$home/m"
  same "unmounted" "" "$(ls -A "$home/m")"
  same "not listed" "[]" "$(ifs ls --json | tr -d " \n")"'
user ls >/dev/null
in_namespace -rm "$in" || fail "with a daemon outside"
same "what was written" "" "$(ls "$home/root/upper")"
user stop
in_namespace -rm "$in" || fail "with a daemon inside"
same "what was written, again" "" "$(ls "$home/root/upper")"
user stop

# Kept; the namespace and the mount end without an unmount.
user ls >/dev/null
in_namespace -rm 'ifs mount -q --rw --upper "$home/kept" "$ref" "$home/m" >/dev/null; echo one >"$home/m/one"'
wait_for 20 '[ "$(user ls --json | tr -d " \n")" = "[]" ]' || fail "gone with its namespace: $(user ls)"
in_namespace -rm 'cd "$home"; ifs mount -q --rw --upper kept "$ref" "$home/n" >/dev/null
  same "kept" one "$(cat "$home/n/one")"; echo two >"$home/n/two"; ifs umount "$home/n"'
same "in the upper directory" "one two" "$(cd "$home/kept/upper" && echo *)"
user stop

# Restarts of the daemon.
mkfifo "$T/go" "$T/done"
chmod 666 "$T/go" "$T/done"
user ls >/dev/null
in_namespace -rm 'ifs mount -q --rw "$ref" "$home/m" >/dev/null; echo new >"$home/m/new"; echo ready >"$T/done"
  read -r _ <"$T/go"
  same "written" new "$(cat "$home/m/new")"; same "below" "of the image" "$(cat "$home/m/etc/conf")"
  echo ready >"$T/done"; read -r _ <"$T/go"
  echo more >>"$home/m/etc/conf"; same "after a crash" "of the image more" "$(xargs <"$home/m/etc/conf")"' &
there=$!
read -r _ <"$T/done"
user stop; user ls >/dev/null
echo >"$T/go"; read -r _ <"$T/done"
kill -9 "$(user status --json | field 'j["pid"]')"
user ls >/dev/null
echo >"$T/go"
wait $there || fail "over restarts"
wait_for 20 '[ "$(user ls --json | tr -d " \n")" = "[]" ]' || fail "gone with its namespace: $(user ls)"
wait_for 20 '[ -z "$(ls "$home/root/upper")" ]' || fail "what was written is left: $(ls "$home/root/upper")"
user stop
nothing_left "$home"
