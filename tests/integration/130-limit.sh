#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# long
# store.limit at a tenth of what thirty readers read, who compare every byte: the store stays below the limit and one
# batch of writes, and no read fails, also when the daemon is killed in the middle of it. SECONDS_OF_READING makes it longer (make soak).
. "$(dirname "$0")/../lib/lib.sh"
. "$LIB/lazy.sh"
need_root; need_fuse
start_registry registry
lazy_image app gzip 7 "${MIB:-160}"
truth app "$T/truth"
publish app
ref=$REGISTRY/test/app:1 limit=$((20 << 20)) batch=$((8 << 20))
configure '[store]' 'limit = "20M"' 'reserve = "none"' '[fill]' 'quiet = "1s"' 'min_free = "0%"'
used() { du -s -B1 "$ROOT" | cut -f1; }

for mode in $(modes); do
  store "$mode"
  mkdir -p "$M/$mode"
  ifs mount -q --mode "$mode" "$ref" "$M/$mode" >/dev/null
  $PY "$LIB/readers.py" "$T/truth" "$M/$mode" 30 "$T/stop" >"$T/readers.json" & readers=$!
  end=$((SECONDS + ${SECONDS_OF_READING:-20})) most=0 kill=$((SECONDS + 6))
  while [ $SECONDS -lt $end ]; do
    now=$(used)
    [ "$now" -le $most ] || most=$now
    # Readers wait for the next daemon, which finds what the last one was about to give back.
    if [ $SECONDS -ge $kill ]; then
      slay $(daemons_of "$RUN")
      ifs ls >/dev/null
      kill=$((SECONDS + 4))
    fi
    sleep 0.1
  done
  touch "$T/stop"
  wait $readers || fail "$mode: $(cat "$T/readers.json")"
  rm "$T/stop"
  [ $most -le $((limit + batch)) ] || fail "$mode: the store had $most bytes, its limit is $limit"
  [ "$(counter fill_evicted_bytes)" -gt 1000000 ] || fail "$mode: $(counter fill_evicted_bytes) bytes were evicted"
  same "$mode: reads that failed" 0 "$(counter fill_reads_failed)"
  echo "$mode: most $most, evicted $(counter fill_evicted_bytes), fetched $(counter fill_bytes_fetched): $(cat "$T/readers.json")"
  # What nothing needs is not fetched in the background, and one line says so.
  lines=$(grep -c fill.background_stopped "$RUN/daemon.log") starts=$(grep -c ' ready root=' "$RUN/daemon.log")
  [ "$lines" -ge 1 ] && [ "$lines" -le "$starts" ] || fail "$mode: $lines lines about the background of $starts daemons"
  # A pull of more than the limit says why it fails.
  refuse 10 'store.limit' timeout 60 "$IMAGEFS" --root "$ROOT" --run "$RUN" pull -q --wait "$M/$mode"
  ifs df --json >"$T/df"
  [ "$(field 'j["used_bytes"] <= j["limit_bytes"] + (8 << 20) and j["limit_bytes"] == 20 << 20' <"$T/df")" = true ] || fail "$mode: $(cat "$T/df")"
  ifs umount --all
  ifs stop
done
