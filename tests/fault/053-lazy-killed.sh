#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# kill -9 of the daemon while layers fill: the next one shows the same mounts, what was here is not fetched
# again, and in the end all is as it should be. Who waits when the daemon is stopped waits for the next one.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_root; need_fuse
start_registry registry
start_shaper line
lazy_image app gzip 1 16
publish app
truth app "$T/truth"
(cd "$T/truth" && find usr/share/doc -type f | sort | awk 'NR % 9 == 0' | sed -n 1,8p) >"$T/some"
in_flight() { state "$1" | field 'sum(len(l["in_flight"]) + l["waiting"] for l in j["layers"])'; }
# A layer that is complete has no share in it.
missing() { state "$1" | field 'sum(l["blob_bytes"] - l["blob_bytes_present"] for l in j["layers"])'; }
present() { state "$1" | field 'sum(l["blob_bytes_present"] for l in j["layers"])'; }
clients() { local pid; for pid in $(processes); do tr '\0' ' ' <"/proc/$pid/cmdline" | grep -q 'pull -q --wait' && echo "$pid"; done; return 0; }
for mode in $(modes); do
  store "$mode"
  m=$M/$mode
  mkdir -p "$m" "$m-stopped"
  shape set rate=0 >/dev/null
  forget_requests
  ifs mount -q --mode "$mode" "$SHAPED/test/app:1" "$m" >/dev/null
  while read -r file; do cmp "$T/truth/$file" "$m/$file"; done <"$T/some"
  wait_for 10 '[ "$(in_flight "$m")" = 0 ]' || fail "$mode: never quiet"
  here=$(present "$m") fetched=$(sent app)
  [ "$here" -gt 0 ] || fail "nothing was read"

  # Killed in a quiet moment: not a byte comes twice.
  slay $(daemons_of "$RUN")
  ifs images >/dev/null
  same "$mode: mounts that came back" "[\"$m\"]" "$(ifs ls --json | field '[m["directory"] for m in j]')"
  same "$mode: mode" "$mode" "$(ifs ls --json | field 'j[0]["mode"]')"
  same "$mode: what is here" "$here" "$(present "$m")"
  same "$mode: states" filling "$(states "$m")"
  while read -r file; do cmp "$T/truth/$file" "$m/$file"; done <"$T/some"
  # What was here is checked, and not fetched; what is read ahead of it may be.
  wait_for 10 '[ "$(in_flight "$m")" = 0 ]' || fail "$mode: never quiet after the kill"
  new=$(($(present "$m") - here)) cost=$(($(sent app) - fetched))
  [ "$cost" -le "$new" ] || fail "$mode: $cost bytes came for $new that were not here"

  # Killed in the middle: three times, on a line that takes its time.
  shape set rate=500kB >/dev/null
  for round in 1 2 3; do
    before=$(missing "$m")
    ifs pull -q --wait "$m" >/dev/null 2>&1 &
    client=$!
    wait_for 20 '[ "$(missing "$m")" -lt "$before" ]' || fail "$mode: nothing comes"
    # Its client would start another one and go on.
    slay $(clients) $(daemons_of "$RUN")
    wait $client 2>/dev/null || true
    ifs images >/dev/null
    [ "$(missing "$m")" -le "$before" ] || fail "$mode: less is here after the kill than before"
  done
  shape set rate=0 >/dev/null
  missing=$(missing "$m") before=$(sent app)
  [ "$missing" -gt 0 ] || fail "$mode: it was all here too early"
  ifs pull -q --wait "$m" >/dev/null
  cost=$(($(sent app) - before))
  # A small piece that is here between two that are missing comes once more: cheaper than another request.
  [ "$cost" -le $((missing + 3 * 65536)) ] || fail "$mode: $cost bytes came for $missing that were missing"
  same "$mode: states" complete "$(states "$m")"
  $PY "$LIB/tree.py" compare "$T/truth" "$m" --disarmed || fail "$mode: another tree"
  same "$mode: layers refused" 0 "$(counter layers_failed)"
  ifs umount --all
  ifs stop

  # Stopped while a reader waits on a line on which nothing moves: it waits on, and the next daemon serves it.
  store "$mode-stopped"
  ifs mount -q --mode "$mode" "$SHAPED/test/app:1" "$m-stopped" >/dev/null
  shape rules '[{"path": "/blobs/", "delay": 3600}]' >/dev/null
  cat "$m-stopped/usr/lib/random" >"$T/read" 2>"$T/read.error" &
  reader=$!
  wait_for 20 '[ "$(in_flight "$m-stopped")" -gt 0 ]' || fail "$mode: nobody waits"
  ifs stop 2>"$T/stop.said"
  grep -q '^imagefs: 1 mount remains and needs a daemon' "$T/stop.said" || fail "$mode: stop says $(cat "$T/stop.said")"
  [ -z "$(daemons_of "$RUN")" ] || fail "$mode: the daemon does not end"
  sleep 0.5
  kill -0 $reader 2>/dev/null || fail "$mode: the reader did not wait: $(cat "$T/read.error")"
  shape rules '[]' >/dev/null
  ifs images >/dev/null
  wait $reader || fail "$mode: the reader says $(cat "$T/read.error")"
  cmp "$T/truth/usr/lib/random" "$T/read" || fail "$mode: the reader has other bytes"
  cmp "$T/truth/usr/lib/random" "$m-stopped/usr/lib/random" || fail "$mode: not as it was"
  ifs umount --all
  ifs stop
done
