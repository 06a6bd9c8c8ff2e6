#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# fsync fails while a layer is synced (EIO, ENOSPC): who waits for that layer is told the cause, others are
# not concerned, and when the disk is well again the layer is synced without anybody asking. Bytes that
# the disk lost meanwhile are fetched again.
. "$(dirname "$0")/../lib/lib.sh"
. "$LIB/lazy.sh"
need_root; need_fuse; need strace
start_registry registry
lazy_image app gzip 5 3
lazy_image two gzip 6 2
ref=$REGISTRY/test/app:1
all_complete() { [ "$(ifs status --json | field 'all(l["state"] == "complete" for l in j["layers"])')" = true ]; }
# From here on fsync of the daemon fails, until `fsync_works`.
fsync_fails() {
  strace -f -qq -p "$(daemons_of "$RUN")" -e trace=fsync -e inject=fsync:error="$1" -o "$T/strace" &
  TRACER=$!
  TEST_PIDS+=($TRACER)
  wait_for 20 "grep -q '^TracerPid:.*[1-9]' /proc/$(daemons_of "$RUN")/status" || fail "no strace"
}
fsync_works() {
  kill -INT $TRACER
  wait $TRACER 2>/dev/null || true
}

for error in EIO ENOSPC; do
  store $error
  ifs pull -q "$REGISTRY/test/two:1"
  fsync_fails $error
  status=0
  ifs pull -q "$ref" >/dev/null 2>"$T/err" || status=$?
  [ $status != 0 ] || fail "$error: a pull whose layers are not on the disk says 0"
  grep -qE 'Input/output error|No space left' "$T/err" || { cat "$T/err"; fail "$error: no cause is given"; }
  fsync_works
  wait_for 60 all_complete || fail "$error: the sync was not tried again"
  ifs pull -q "$ref" >/dev/null || fail "$error: the pull after it"
  # LevelDB takes no write after a sync that failed, until its files were written anew.
  mkdir -p "$M/$error"
  ifs mount -q "$ref" "$M/$error" >/dev/null
  ifs umount "$M/$error"
  ifs stop
done

# The records are well, the layers' files are not: a pull of what can be synced goes on.
store other
mkdir -p "$M/app"
ifs ls >/dev/null
strace -f -qq -p "$(daemons_of "$RUN")" -e trace=fsync -e inject=fsync:error=EIO:when=1+2 -o "$T/strace" &
TRACER=$!
TEST_PIDS+=($TRACER)
wait_for 20 "grep -q '^TracerPid:.*[1-9]' /proc/$(daemons_of "$RUN")/status" || fail "no strace"
ifs pull -q "$ref" >/dev/null 2>&1 || true
fsync_works
wait_for 60 all_complete || fail "half of the syncs fail: never complete"
ifs pull -q "$ref" >/dev/null
truth app "$T/truth"
ifs mount -q "$ref" "$M/app" >/dev/null
$PY "$LIB/tree.py" compare "$T/truth" "$M/app" --loose-root || fail "wrong tree"
