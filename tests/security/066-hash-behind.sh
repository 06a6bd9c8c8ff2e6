#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Layers that are mounted before their tars are hashed: an image whose configuration lies of its DiffID loses its
# mounts, and gives nothing to the image that has the layer; an honest one is proven, also after a kill -9.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_root; need_fuse
$PY - "$LIB" "$T/images" <<'PY'
import random, sys
sys.path.insert(0, sys.argv[1])
from oci import *
def layer(who, **kw):
    t = Tar().file("mark", who.encode())
    t.file("random", random.Random(who).randbytes(17 << 20))  # makes the blob large
    for i in range(4):
        t.file(f"zeros{i}", bytes(96 << 20))                  # makes the hash take a while
    raw = t.bytes()
    return Layer(raw, blob=gzipped(raw, 1), **kw)
good = layer("genuine")
simple_image(sys.argv[2] + "/good", [good])
simple_image(sys.argv[2] + "/liar", [layer("hostile", diff_id=good.diff_id)])
print(good.diff_id[7:], file=open(sys.argv[2] + "/diff_id", "w"))
PY
claimed=$(cat "$T/images/diff_id")
start_registry registry
start_shaper line
for name in good liar; do push "$T/images/$name" test/$name:1 >/dev/null; done
mkdir -p "$M/good" "$M/again" "$M/evil"
layers() { ifs status --json | field '" ".join(sorted(l["state"] for l in j["layers"]))'; }
for mode in $(modes); do
  store "$mode-liar"
  ifs mount -q --mode "$mode" "$SHAPED/test/liar:1" "$M/evil" >/dev/null
  wait_for 120 'grep -q "layer.damaged.*its tar has digest.*DiffID sha256:$claimed" "$RUN/daemon.log"' ||
    fail "$mode: the lie is not found: $(layers)"
  wait_for 20 '! cat "$M/evil/zeros3" >/dev/null 2>&1' || fail "$mode: its mount is still read"
  ifs ls | grep -q "$M/evil .*damaged: .*its tar has digest .*DiffID sha256:$claimed" || fail "$mode: ls: $(ifs ls)"
  same "$mode: its layer" damaged "$(ifs status --json "$M/evil" | field 'j["layers"][0]["state"]')"
  ifs mount -q --mode "$mode" "$SHAPED/test/good:1" "$M/good" >/dev/null
  same "$mode: the genuine image beside it" genuine "$(cat "$M/good/mark")"
  wait_for 120 '[ "$(layers)" = "complete complete" ]' || fail "$mode: $(layers)"
  ifs umount "$M/evil"
  if ifs mount -q --mode "$mode" "$SHAPED/test/liar:1" "$M/evil" 2>"$T/said"; then fail "$mode: mounted again"; fi
  grep -q "its tar has digest .*DiffID sha256:$claimed" "$T/said" || fail "$mode: it says $(cat "$T/said")"
  same "$mode: the genuine image then" genuine "$(cat "$M/good/mark")"
  # A further mount shares what is mounted.
  ifs mount -q --mode "$mode" "$SHAPED/test/good:1" "$M/again" >/dev/null
  same "$mode: file systems" "$(stat -c %d "$M/good/mark")" "$(stat -c %d "$M/again/mark")"
  ifs umount --all
  ifs stop

  store "$mode-killed"
  forget_requests
  ifs mount -q --mode "$mode" "$SHAPED/test/good:1" "$M/good" >/dev/null
  slay $(daemons_of "$RUN")
  fetched=$(sent good)
  ifs images >/dev/null
  same "$mode: mounts that came back" "[\"$M/good\"]" "$(ifs ls --json | field '[m["directory"] for m in j]')"
  same "$mode: after the kill" genuine "$(cat "$M/good/mark")"
  wait_for 120 '[ "$(layers)" = "complete complete" ]' || fail "$mode: after the kill: $(layers)"
  cmp -n 100663296 "$M/good/zeros3" /dev/zero || fail "$mode: wrong bytes"
  ifs pull -q "$SHAPED/test/good:1" >/dev/null
  same "$mode: bytes fetched again" "$fetched" "$(sent good)"
  ifs umount --all
  ifs stop
done
