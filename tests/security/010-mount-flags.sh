#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Setuid programs and device nodes of an image give a local user nothing, unless root asks for them; containers and
# recovery keep what was asked for.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse; need setpriv
cp /usr/bin/id "$T/id"
$PY - "$LIB" "$T/images/armed" "$T/id" <<'PY'
import sys
sys.path.insert(0, sys.argv[1])
from oci import *
program = open(sys.argv[3], "rb").read()
t = Tar().dir("bin").file("bin/id", program, mode=0o4755).file("bin/gid", program, mode=0o2755)
t.dir("dev").add("dev/null", kind="3", mode=0o666, dev=(1, 3))
simple_image(sys.argv[2], [Layer(t)])
PY
ref=oci:$T/images/armed
mkdir "$M"/{plain,asked,rw,rw-asked,back}
# setpriv itself still has capabilities when it runs its program, which then has none.
as_user() { setpriv --reuid 1234 --regid 1234 --clear-groups sh -c 'exec "$0" "$@"' "$@"; }
flags_of() { findmnt -n -o VFS-OPTIONS "$1"; }
# disarmed DIR, armed DIR: what uid 1234 gets there.
disarmed() {
  same "$1: euid of a setuid program" 1234 "$(as_user "$1/bin/id" -u)"
  same "$1: egid of a setgid program" 1234 "$(as_user "$1/bin/gid" -g)"
  same "$1: shown as it is" 4755 "$(stat -c %a "$1/bin/id")"
  ! as_user cat "$1/dev/null" 2>/dev/null || fail "$1: uid 1234 opens a device"
  ! cat "$1/dev/null" 2>/dev/null || fail "$1: root opens a device"
  flags_of "$1" | grep -qw nosuid && flags_of "$1" | grep -qw nodev || fail "$1: $(flags_of "$1")"
}
armed() {
  same "$1: euid of a setuid program" 0 "$(as_user "$1/bin/id" -u)"
  as_user cat "$1/dev/null" || fail "$1: the device cannot be opened"
}

for mode in $(modes); do
  mnt() { ifs mount -q --mode "$mode" "$@" >/dev/null; }
  mnt "$ref" "$M/plain"
  mnt -o suid,dev "$ref" "$M/asked"
  mnt --rw "$ref" "$M/rw"
  mnt --rw -o suid,dev "$ref" "$M/rw-asked"
  disarmed "$M/plain"
  disarmed "$M/rw"
  armed "$M/asked"
  armed "$M/rw-asked"
  same "$mode: listed" '[[], ["nosuid", "nodev"], ["nosuid", "nodev"], []]' \
    "$(ifs ls --json | field '[m["options"] for m in sorted(j, key=lambda m: m["directory"])]')"
  # A user may not reach the private mounts, which have no such flags.
  for private in $(mounts_below "$RUN/chains"); do
    ! as_user "$private/bin/id" 2>/dev/null || fail "$mode: uid 1234 runs $private/bin/id"
  done

  # Another daemon shows them in the same way.
  slay $(daemons)
  ifs ls >/dev/null
  disarmed "$M/plain"
  disarmed "$M/rw"
  armed "$M/asked"
  armed "$M/rw-asked"
  ifs umount --all

  # The last word of a kind counts, `defaults` asks for nothing.
  for words in suid,nosuid,dev,nodev defaults ro,exec; do
    mnt -o "$words" "$ref" "$M/back"
    disarmed "$M/back"
    ifs umount "$M/back"
  done
  mnt -o nosuid,suid -o nodev,dev "$ref" "$M/back"
  armed "$M/back"
  ifs umount --all
  ifs stop
done
nothing_left "$M"
