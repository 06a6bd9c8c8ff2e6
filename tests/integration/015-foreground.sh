#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# mount --foreground: serves until it is interrupted, then leaves neither mount nor process.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse
image plain
mkdir "$M/a"
for signal in INT TERM; do
  "$IMAGEFS" --root "$ROOT" --run "$RUN" mount --foreground -q "oci:$T/images/plain" "$M/a" >"$T/out" 2>"$T/err" &
  pid=$!
  wait_for 20 "[ -e '$M/a/etc/passwd' ]" || { cat "$T/err"; fail "no mount"; }
  same "one process" "$pid" "$(daemons)"
  kill -$signal $pid
  status=0
  wait $pid || status=$?
  [ $status = 0 ] || [ $status = 130 ] || fail "status $status after SIG$signal: $(cat "$T/err")"
  nothing_left "$M"
  same "processes left" "" "$(daemons)"
done
# It also ends when its mount is unmounted from outside.
"$IMAGEFS" --root "$ROOT" --run "$RUN" mount --foreground -q "oci:$T/images/plain" "$M/a" >"$T/out" 2>"$T/err" &
pid=$!
wait_for 20 "[ -e '$M/a/etc/passwd' ]" || fail "no mount"
ifs umount "$M/a"
wait_for 20 "! kill -0 $pid 2>/dev/null" || fail "still serving after umount"
