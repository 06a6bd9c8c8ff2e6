#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Root of a user namespace has the directories and the rights of the user who made it: its mounts are made in its own mount
# namespace, whichever daemon serves them, and a daemon that was started there serves the user's other shells.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_root; need unshare
home='' uid=''
need_user
as_user unshare -rm true 2>/dev/null || skip "this machine lets users make no user namespace"
$PY - "$LIB" "$T/images/secret" <<'P'
import sys
sys.path.insert(0, sys.argv[1])
from oci import *
simple_image(sys.argv[2], [Tar().dir("root", mode=0o700).file("root/secret", b"of root\n", mode=0o600)
    .file("other", b"of another\n", mode=0o400, uid=33, gid=33)])
P
chmod -R go+rX "$T/images"
mkdir "$home/other" "$home/xdg"
chmod 700 "$home/xdg"
chown "$uid" "$home/m" "$home/other" "$home/xdg"
ln -s "$home" "$T/link"
ref=oci:$T/images/secret
user() { as_user env XDG_RUNTIME_DIR="$home/xdg" "$IMAGEFS" "$@"; }
# in_namespace WORDS SCRIPT: as root of a user namespace, made with unshare WORDS.
in_namespace() {
  local before="ifs() { '$IMAGEFS' \"\$@\"; }; home=$home ref=$ref T=$T"
  as_user env XDG_RUNTIME_DIR="$home/xdg" unshare "$1" bash -c "$(declare -f same fail)"$'\n'"$before"$'\n'"$2"
}
empty() { same "nothing at $1" "" "$(ls -A "$1")"; }
none_listed() { wait_for 20 '[ "$(user ls --json | tr -d " \n")" = "[]" ]' || fail "still listed: $(user ls)"; }

# The daemon is started in the namespace.
in_namespace -rm 'ifs mount -q "$ref" "$home/m" >/dev/null
  same "its own directories" "$home/.local/share/imagefs $home/xdg/imagefs" \
    "$(ifs status --json | tr -d "\", " | sed -n "s/^root://p; s/^run://p" | xargs)"
  same "there" "of root" "$(cat "$home/m/root/secret")"
  same "whoever it belongs to" "of another" "$(cat "$home/m/other")"
  ifs umount "$home/m"; same "unmounted" "" "$(ls -A "$home/m")"
  ifs mount -q "$ref" "$T/link/m" >/dev/null
  same "by a link of root, who is nobody here" "of root" "$(cat "$home/m/root/secret")"
  ifs umount "$home/m"' || fail "with its own daemon"
[ -d "$home/.local/share/imagefs" ] && [ -S "$home/xdg/imagefs/control.sock" ] || fail "not in the user's directories"
empty "$home/m"
user mount -q "$ref" "$home/other" >/dev/null
same "outside, by that daemon" "of root" "$(as_user cat "$home/other/root/secret")"
daemon=$(user status --json | field 'j["pid"]')
[ "$(readlink "/proc/$daemon/ns/user")" != "$(readlink /proc/self/ns/user)" ] || fail "the daemon is not in the namespace"
user stop
user ls >/dev/null
daemon=$(user status --json | field 'j["pid"]')
[ "$(readlink "/proc/$daemon/ns/user")" = "$(readlink /proc/self/ns/user)" ] || fail "the daemon is not outside"
same "outside, by the next daemon" "of root" "$(as_user cat "$home/other/root/secret")"
user umount "$home/other"
empty "$home/other"

# The daemon is outside, and the mount in the namespace survives restarts of it.
user umount --all 2>/dev/null || true
mkfifo "$T/go" "$T/done"
chmod 666 "$T/go" "$T/done"
in_namespace -rm 'ifs mount -q "$ref" "$home/m" >/dev/null; echo ready >"$T/done"; read -r _ <"$T/go"
  same "after a restart" "of root" "$(cat "$home/m/root/secret")"
  ifs umount "$home/m"; same "unmounted" "" "$(ls -A "$home/m")"
  ifs mount -q "$ref" "$home/m" >/dev/null' &
there=$!
read -r _ <"$T/done"
empty "$home/m"
user stop
user ls >/dev/null
echo >"$T/go"
wait $there || fail "in the namespace of another daemon"
none_listed

# Without a mount namespace of its own: the daemon outside mounts.
in_namespace -r 'ifs mount -q "$ref" "$home/m" >/dev/null; same "there" "of root" "$(cat "$home/m/root/secret")"' || fail "unshare -r"
same "and here" "of root" "$(as_user cat "$home/m/root/secret")"
in_namespace -r 'ifs umount "$home/m"' || fail "umount in unshare -r"
empty "$home/m"
user stop

# A daemon that was started in such a namespace can mount nowhere, but it serves what others mount.
status=0
in_namespace -r 'ifs mount -q "$ref" "$home/m"' 2>"$T/err" || status=$?
same "status where nobody can mount" 5 $status
grep -q 'no mount namespace of its own.*unshare -rm' "$T/err" || fail "$(cat "$T/err")"
daemon=$(user status --json | field 'j["pid"]')
[ "$(readlink "/proc/$daemon/ns/user")" != "$(readlink /proc/self/ns/user)" ] || fail "the daemon is not in the namespace"
user mount -q "$ref" "$home/m" >/dev/null
same "by a daemon that cannot mount" "of root" "$(as_user cat "$home/m/root/secret")"
same "listed" "$home/m" "$(user ls -q)"
user umount "$home/m"
empty "$home/m"
none_listed
user mount -q "$ref" "$home/m" >/dev/null
user stop
user ls >/dev/null
same "after the restart outside" "of root" "$(as_user cat "$home/m/root/secret")"
user umount --all
user stop
nothing_left "$home"
