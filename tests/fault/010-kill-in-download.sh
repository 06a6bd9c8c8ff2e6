#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# long
# kill -9 of the daemon at ten different moments of a download: the store opens each time, layers that
# were complete stay and are not asked for again, and the image is right in the end.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse
start_registry registry
big_image big a=1 b=3 c=0.2 d=6 e=2 f=0.1
push "$T/images/big" test/big:1
start_proxy proxy
rules '[{"path": "blobs", "rate": 4000000}]'
ref=$PROXY/test/big:1
complete() { ifs status --json | field '" ".join(sorted(l["diff_id"] for l in j["layers"] if l["state"] == "complete"))'; }
kept=
for round in $(seq 10); do
  ifs images >/dev/null || fail "the store does not open in round $round"
  now=$(complete)
  for layer in $kept; do
    grep -qF "$layer" <<<"$now" || fail "round $round lost the complete layer $layer"
  done
  mkdir -p "$M/$round"
  ifs mount -q "$ref" "$M/$round" >/dev/null 2>&1 &
  client=$!
  sleep "0.$((round * 37 % 100 + 100))"   # 0.1xx s: another moment each round
  sleep "$(((round % 4))).$((round * 29 % 10))"
  kept=$(complete || true)
  slay $(daemons)
  wait $client 2>/dev/null || true
done
ifs umount --all   # those that were quick enough
rules '[]'
mkdir "$M/end"
ifs mount -q "$ref" "$M/end" >/dev/null
unpacked "$T/images/big" "$T/truth"
$PY "$LIB/tree.py" compare "$T/truth" "$M/end" --loose-root || fail "wrong tree"
same "layers" 6 "$(ifs status --json | field 'len(j["layers"])')"
left=$(find "$ROOT/blobs" -type f 2>/dev/null | wc -l)
same "partial blobs left" 0 "$left"
