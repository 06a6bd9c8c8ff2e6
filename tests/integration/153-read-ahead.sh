#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What readers of a lazy layer will need next is fetched before they ask: the rest of a file, the files around, and what
# follows a sequential reader, in few requests; nobody waits behind it, and what nobody uses is bounded.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_root; need_fuse
start_registry registry
start_shaper line
$PY - "$LIB" "$T/images/app" <<'EOF'
import random, sys
sys.path.insert(0, sys.argv[1])
from oci import *
rng = random.Random(153)
noise = lambda size: rng.randbytes(size * 2 // 3) + bytes(size // 3)  # a third of it compresses away
code = Tar().dir("code")
for i in range(300):  # modules of 24 KiB: 7 MiB, of which a program reads some, in any order
    code.file(f"code/module{i:03}", noise(24 << 10))
libraries = Tar().dir("lib")
for i in range(40):
    libraries.file(f"lib/library{i:02}", noise(3 << 20))
far = Tar().dir("far").file("far/away", noise(300 << 10)).file("far/behind", noise(600 << 10))
model = Tar().dir("model").file("model/weights", rng.randbytes(96 << 20))
layers = [Layer(t.bytes(), LAYER_GZIP, gzip.compress(t.bytes(), 1, mtime=0)) for t in (code, libraries, far)]
simple_image(sys.argv[2], layers + [Layer(model.bytes(), LAYER)])
EOF
push "$T/images/app" test/app:1
publish app
truth app "$T/truth"
quiet() {  # quiet DIR: nothing is in flight
  wait_for 60 '[ "$(state "'"$1"'" | field "sum(len(l[\"in_flight\"]) for l in j[\"layers\"])")" = 0 ]' || fail "$1: $(state "$1")"
}
# one_by_one DIR FILE...: as a program does that opens one after the other; `requests` is how many it waited for.
one_by_one() {
  local where=$1 before file; shift
  before=$(counter fill_waits)
  for file; do
    cmp "$T/truth/$file" "$where/$file" || fail "$where/$file: wrong bytes"
    quiet "$where"
  done
  requests=$(($(counter fill_waits) - before))
}
begin() {  # begin NAME: a mount from an empty store
  ifs stop --unmount 2>/dev/null || true
  store "$1"
  mkdir -p "$M/$1"
  forget_requests
  ifs mount -q --mode "${2:-auto}" "$SHAPED/test/app:1" "$M/$1" >/dev/null
}

for mode in $(modes); do
  # Modules of one folder, in any order: the folder comes in a few requests, and nothing else does.
  begin "folder-$mode" "$mode"
  modules=()
  for i in 150 20 290 75 220 110 255 40 185 5 130 270 95 205 60 240 165 30 280 120; do modules+=("$(printf 'code/module%03d' "$i")"); done
  one_by_one "$M/folder-$mode" "${modules[@]}"
  [ "$requests" -le 12 ] || fail "$mode: $requests requests in a row for ${#modules[@]} modules"
  same "$mode: of other layers" 0 "$(state "$M/folder-$mode" | field 'sum(l["blob_bytes_fetched"] for l in j["layers"][1:])')"

  # Of a library whose head was read, the rest is there when it is asked for.
  begin "file-$mode" "$mode"
  head -c 4096 "$M/file-$mode/lib/library07" | cmp -n 4096 - "$T/truth/lib/library07"
  quiet "$M/file-$mode"
  before=$(counter fill_requests)
  cmp "$T/truth/lib/library07" "$M/file-$mode/lib/library07" || fail "$mode: wrong bytes"
  # The kernel itself reads ahead beyond the end of the file.
  [ $(($(counter fill_requests) - before)) -le 2 ] || fail "$mode: the rest of a file took $(($(counter fill_requests) - before)) requests"
  # The heads of all of them, which nobody reads on: that is noticed.
  for file in "$T"/truth/lib/*; do
    head -c 4096 "$M/file-$mode/lib/${file##*/}" | cmp -n 4096 - "$file"
    quiet "$M/file-$mode"
  done
  fetched=$(sum "$M/file-$mode" blob_bytes_fetched) needed=$(sum "$M/file-$mode" blob_bytes_needed)
  [ "$fetched" -le $((needed + needed / 4 + (12 << 20))) ] || fail "$mode: $fetched bytes were fetched, $needed needed"
done

# A slow line full of what was guessed: a reader's request is not behind it.
begin slow
shape set rate=12Mbit rtt=20 >/dev/null
head -c 4096 "$M/slow/lib/library20" >/dev/null
cat "$M/slow/far/behind" >/dev/null
cmp "$T/truth/far/behind" "$M/slow/far/behind"
quiet "$M/slow"
library=$(layer_of app 1) away=$(layer_of app 2)
$PY - "$SHAPER/requests" "$library" "$away" <<'EOF' || fail "a reader waited for what was read ahead"
import json, sys
requests = [r for r in map(json.loads, open(sys.argv[1])) if r["range"]]
end = lambda r: r["began"] + r["seconds"]
guessed = max((r for r in requests if sys.argv[2] in r["path"]), key=end)
wanted = min((r for r in requests if sys.argv[3] in r["path"]), key=lambda r: r["began"])
print(f"read ahead: {guessed['began']:.2f} to {end(guessed):.2f}; wanted: {wanted['began']:.2f} to {end(wanted):.2f}")
sys.exit(not (wanted["began"] < end(guessed) and end(wanted) < end(guessed)))
EOF
shape set rate=0 rtt=0 >/dev/null

# A large file, read from the front to the end: large requests, each byte once.
for mode in $(modes); do
  begin "large-$mode" "$mode"
  cmp "$T/truth/model/weights" "$M/large-$mode/model/weights" || fail "$mode: wrong bytes"
  quiet "$M/large-$mode"
  requests=$(counter fill_requests)
  [ "$requests" -le 200 ] || fail "$mode: $requests requests for 96 MiB"
  lazy once "$SHAPER/requests" "$T/images/app" || fail "$mode: bytes came twice"
done
