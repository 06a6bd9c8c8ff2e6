#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# long
# kill -9 of a daemon that has mounts: the next one brings them back, with what was written to the
# writable ones; `umount` cleans what is dead when no daemon runs.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse
image plain whiteouts
mkdir "$M"/{a,b,rw}
# FUSE needs its daemon; what the kernel shows by itself has a test of its own.
ifs mount -q --mode fuse "oci:$T/images/plain" "$M/a" >/dev/null
ifs mount -q --mode fuse "oci:$T/images/whiteouts" "$M/b" >/dev/null
ifs mount -q --mode fuse --rw "oci:$T/images/plain" "$M/rw" >/dev/null
echo kept >"$M/rw/written"
for round in 1 2 3; do
  slay $(daemons)
  # What the kernel has in its caches it may still give; this file nobody has read. The holder starts a daemon after ten
  # seconds.
  ! timeout 5 cat "$M/a/usr/lib/big" >/dev/null 2>&1 || fail "who serves this?"
  ifs images >/dev/null   # starts the next daemon
  wait_for 20 "grep -q root '$M/a/etc/passwd' 2>/dev/null" || fail "round $round: not mounted again"
  [ -e "$M/b/keep" ] || fail "round $round: the second mount did not come back"
  wait_for 20 "[ \"\$(cat '$M/rw/written' 2>/dev/null)\" = kept ]" || fail "round $round: what was written is lost"
  same "mounts listed" 3 "$(ifs ls --json | field 'len(j)')"
  same "mount points" 1 "$(mounts_below "$M/a" | wc -l)"
done
ifs umount "$M/b"
slay $(daemons)
ifs umount "$M/a"
nothing_left "$M/a"
ifs umount --all
nothing_left "$M"
same "nothing is mounted" "[]" "$(ifs ls --json | tr -d ' \n')"
