#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# alone
# Twenty commands at the same instant, no daemon: all succeed and one daemon serves them. It ends by
# itself when it is idle, and a stale socket or lock of a killed one is no obstacle.
. "$(dirname "$0")/../lib/lib.sh"
need_root
client() { ifs images --json; }
for round in 1 2 3; do
  storm 20 client
  same "daemons in round $round" 1 "$(daemons | wc -w)"
  same "all talk to it" "$(daemons)" "$(ifs status --json | field 'j["pid"]')"
  slay $(daemons)   # leaves socket and lock file behind
done
ifs images >/dev/null
same "daemons" 1 "$(daemons | wc -w)"

# A daemon at rest has started no more threads of a pool than the one that waits, and one for a task that came.
pools="pass layer answers control images snapshots snap-space"
for pool in $pools; do
  threads=$(cat /proc/"$(daemons)"/task/*/comm | grep -cx "$pool" || true)
  [[ $threads == [12] ]] || fail "$threads threads of $pool"
done
ifs stop
wait_for 10 '[ -z "$(daemons)" ]' || fail "still there"

# --idle-exit, and never while a mount needs the daemon.
need_fuse
image plain
mkdir "$M/a"
"$IMAGEFS" --root "$ROOT" --run "$RUN" daemon --idle-exit 1 2>"$T/daemon.log" &
pid=$!
wait_for 10 "[ -S '$RUN/control.sock' ]" || fail "no socket"
ifs mount -q --mode fuse "oci:$T/images/plain" "$M/a" >/dev/null
sleep 2.5
kill -0 $pid || fail "the daemon went away under a mount"
grep -q root "$M/a/etc/passwd" || fail "no content"
ifs umount "$M/a"
wait_for 20 "! kill -0 $pid 2>/dev/null" || fail "an idle daemon does not end"
