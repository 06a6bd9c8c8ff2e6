#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Root of a user namespace, as rootless podman has it: the mounts are FUSE's, in that namespace's own
# mount table, without fusermount3.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse; need setpriv; need unshare
open_fuse
uid=$(id -u nobody) || skip "there is no user nobody"
image plain xattrs
chmod -R a+rX "$T/images"
chmod 711 "$T"
home=$T/home
mkdir -p "$home/m" "$home/rw"
chown -R "$uid:$uid" "$home"
cat >"$home/inside" <<'SH'
set -eu
ifs() { "$IMAGEFS" --root "$home/store" --run "$home/run" "$@"; }
ifs mount -q "oci:$images/plain" "$home/m" >/dev/null
ifs mount -q --rw "oci:$images/xattrs" "$home/rw" >/dev/null || echo "no overlay"
grep -q root "$home/m/etc/passwd"
[ "$(readlink "$home/m/lib")" = usr/lib ]
[ "$(stat -c %u "$home/m/etc/passwd")" = 0 ]
! touch "$home/m/new" 2>/dev/null
ifs ls --json
if ifs mount -q --mode kernel "oci:$images/plain" "$home/m" 2>"$home/err"; then echo "kernel mode here?"; exit 1; fi
ifs umount --all
[ -z "$(ls -A "$home/m")" ]
ifs stop
SH
run() {
  env -i PATH="$PATH" HOME="$home" IMAGEFS="$IMAGEFS" home="$home" images="$T/images" \
    setpriv --reuid="$uid" --regid="$uid" --clear-groups --inh-caps=-all \
    unshare --user --map-root-user --mount bash "$home/inside"
}
setpriv --reuid="$uid" --regid="$uid" --clear-groups unshare --user --map-root-user true 2>/dev/null ||
  skip "this machine lets users make no user namespace"
run >"$home/out" 2>&1 || { cat "$home/out"; tail -5 "$home/run/daemon.log"; fail "inside the namespace"; }
grep -q '"fuse"' "$home/out" || fail "not by FUSE: $(cat "$home/out")"
nothing_left "$home"
