#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# long
# The wall clock is set back and forward by hours under a daemon: deadlines, pauses between requests and
# everything else that means an interval take as long as before. libfaketime moves the wall clock of one
# process alone.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_root; need_fuse
FAKETIME=$(find /usr/lib -name libfaketimeMT.so.1 2>/dev/null | head -n 1)
[ -n "$FAKETIME" ] || skip "libfaketime is not installed"
configure '[fill]' 'background = false' 'deadline = "5s"'
start_registry registry
lazy_image app gzip 5 6
publish app
start_shaper line
truth app "$T/truth"
TRUTH=$T/truth

jump() { echo "$1" >"$T/offset.new"; mv "$T/offset.new" "$T/offset"; }
with_clock() {
  env LD_PRELOAD="$FAKETIME" FAKETIME_TIMESTAMP_FILE="$T/offset" FAKETIME_NO_CACHE=1 \
    FAKETIME_DONT_FAKE_MONOTONIC=1 "$@"
}
# daemon NAME: one whose wall clock `jump` sets, with a store of its own and a cold mount at $M/NAME.
daemon() {
  store "$1"
  jump +0
  mkdir -p "$M/$1"
  with_clock "${IMAGEFS}d" --root "$ROOT" --run "$RUN" --config "$T/config.toml" daemon >>"$T/$1.log" 2>&1 &
  TEST_PIDS+=($!)
  wait_for 20 '[ -S "$RUN/control.sock" ]' || fail "no daemon"
  ifs mount -q --mode fuse "$SHAPED/test/app:1" "$M/$1" >/dev/null
}
waits() { [ "$(state "$1" | field 'sum(l["waiting"] for l in j["layers"])')" -gt 0 ]; }
# The lines of the log have the time that the process takes for the right one.
log_is_at() {  # log_is_at NAME HOURS: whether the newest line is that far from now, in whole hours
  local line
  line=$(tail -n 1 "$T/$1.log" | grep -oE '^[0-9]{4}-[0-9-]+[T ][0-9:]+' | tr T ' ') || return 1
  [ $(( ( $(date -d "$line" +%s) - $(date +%s) + 360000 + 1800 ) / 3600 - 100 )) = "$2" ]
}

# The timers themselves, in the unit tests, while the clock goes to and fro.
if [ -x "${TEST_BUILD:-}/tests/base_test" ]; then
  jump +0
  with_clock timeout 60 "$TEST_BUILD/tests/base_test" --gtest_filter='Timer*:Timed*:Moment*' >"$T/unit" 2>&1 &
  unit=$!
  while kill -0 $unit 2>/dev/null; do
    for hours in -2 +2 -48 +0; do jump "${hours}h"; sleep 0.02; done
  done
  wait $unit || fail "timers: $(tail -n 20 "$T/unit")"
fi

for by in -3600 +3600 -86400; do
  # A read that waits while the clock is set ends by its deadline, no earlier and no later.
  daemon "at$by"
  cat "$M/at$by/etc/4096" >/dev/null
  shape rules '[{"path": "/blobs/", "status": 503}]' >/dev/null
  began=$SECONDS
  timeout 60 cat "$M/at$by/usr/lib/random" >/dev/null 2>"$T/error" &
  reader=$!
  wait_for 10 'waits "$M/at$by"' || fail "$by: no read waits"
  jump "$by"
  status=0; wait $reader || status=$?
  took=$((SECONDS - began))
  [ $status = 1 ] && grep -q 'Input/output error' "$T/error" || fail "$by: a read that waits: $status after $took s"
  [ $took -ge 4 ] || fail "$by: the deadline of 5 s came after $took s"
  log_is_at "at$by" $((by / 3600)) || fail "the clock was not set: $(tail -n 1 "$T/at$by.log")"

  # What waits between two requests goes on after it; the clock goes back and forth meanwhile.
  jump +0; jump "$by"
  shape rules '[]' >/dev/null
  ifs pull -q --wait "$M/at$by" >/dev/null || fail "$by: after a pause: $?"
  same "$by: states" complete "$(states "$M/at$by")"
  cmp "$M/at$by/usr/lib/random" "$TRUTH/usr/lib/random" || fail "$by: a wrong byte, or none"

  # So do the layers that wait to be written to the disk, and the daemon's end.
  ifs pull -q "$REGISTRY/test/app:1" >/dev/null
  jump +0
  ifs umount --all
  ifs stop || fail "$by: stop"
  wait_for 20 '[ -z "$(daemons_of "$T/store-at$by/")" ]' || fail "$by: the daemon does not end"
done
