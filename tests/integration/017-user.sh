#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Without root: an own store, an own daemon, fusermount3 mounts, the same tree as far as an ordinary
# user can see it.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse; need fusermount3; need setpriv
[ -u "$(command -v fusermount3)" ] || skip "fusermount3 is not setuid"
open_fuse
image plain names
chmod -R a+rX "$T/images"
chmod 711 "$T"
home=$T/home
mkdir -p "$home/m"
# fusermount3 wants a user that has a name.
uid=$(id -u nobody) || skip "there is no user nobody"
chown -R "$uid:$uid" "$home"
as_user() {
  env -i PATH="$PATH" HOME="$home" setpriv --reuid=$uid --regid=$uid --clear-groups --inh-caps=-all \
    "$IMAGEFS" --root "$home/store" --run "$home/run" "$@"
}
as_user mount -q "oci:$T/images/plain" "$home/m" >/dev/null
setpriv --reuid=$uid --regid=$uid --clear-groups grep -q root "$home/m/etc/passwd" || fail "no content"
same "link" usr/lib "$(setpriv --reuid=$uid --regid=$uid --clear-groups readlink "$home/m/lib")"
same "owner of the daemon" $uid "$(stat -c %u "/proc/$(as_user status --json | field 'j["pid"]')")"
# Another user, root included, is kept out unless the mount allows others.
same "mounts" "[\"$home/m\"]" "$(as_user ls --json | field '[m["directory"] for m in j]')"
mkdir "$home/rw" && chown "$uid" "$home/rw"
refuse 5 'root' as_user mount -q --rw "oci:$T/images/names" "$home/rw"
as_user umount "$home/m"
nothing_left "$home"
as_user stop

# Defaults: XDG folders, or those under HOME and /tmp.
defaults() {
  env -i PATH="$PATH" HOME="$home" XDG_RUNTIME_DIR="$home/xdg" XDG_DATA_HOME="$home/data" \
    setpriv --reuid=$uid --regid=$uid --clear-groups "$IMAGEFS" "$@"
}
mkdir "$home/xdg" && chown $uid "$home/xdg" && chmod 700 "$home/xdg"
defaults images >/dev/null
[ -d "$home/data/imagefs" ] && [ -S "$home/xdg/imagefs/control.sock" ] || fail "XDG folders are not used"
defaults stop
