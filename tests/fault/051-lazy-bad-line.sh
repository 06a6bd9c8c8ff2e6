#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Answers that end early, that ask for patience, that fail, links that expire: reads take longer, and give
# what they should.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_root; need_fuse
start_registry registry
lazy_image app gzip
publish app
truth app "$T/truth"
run() {  # run WHAT MODE: a cold mount and readers over the line as it is
  store "$1-$2"
  mkdir -p "$M/$1-$2"
  ifs mount -q --mode "$2" "$SHAPED/test/app:1" "$M/$1-$2" >/dev/null
  lazy readers "$T/truth" "$M/$1-$2" --readers 6 --seed "$1" || fail "$1, $2: $(tail -3 "$RUN/daemon.log")"
  same "$1, $2: reads that failed" 0 "$(counter fill_reads_failed)"
  ifs pull -q --wait "$M/$1-$2" >/dev/null
  same "$1, $2: states" complete "$(states "$M/$1-$2")"
  ifs umount --all
  ifs stop
}
faults() { $PY -c 'import json, sys
print(sum(sys.argv[2] in json.dumps(r["faults"]) for r in map(json.loads, open(sys.argv[1]))))' "$SHAPER/requests" "$1"; }

start_shaper line
for mode in $(modes); do
  forget_requests
  shape rules '[{"path": "/blobs/", "method": "GET", "every": 3, "cut": 50000}, {"path": "/blobs/", "every": 4, "cut": 1, "reset": true, "times": 8}]' >/dev/null
  run cuts "$mode"
  [ "$(faults cut)" -gt 1 ] || fail "no answer was cut"
  forget_requests
  shape rules '[{"path": "/blobs/", "every": 3, "status": 429, "retry_after": 0, "times": 6}, {"path": "/blobs/", "every": 4, "status": 503, "times": 6}]' >/dev/null
  run patience "$mode"
  grep -q '"status": 429' "$SHAPER/requests" && grep -q '"status": 503' "$SHAPER/requests" || fail "there were no failures"
  shape rules '[]' >/dev/null
done

start_shaper redirecting --redirect --link-uses 1
for mode in $(modes); do
  forget_requests
  run links "$mode"
  [ "$(grep -c '"port": "storage"' "$SHAPER/requests")" -gt 2 ] || fail "no link was followed"
  grep -q '"status": 403' "$SHAPER/requests" || fail "no link expired"
done
