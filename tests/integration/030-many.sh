#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# alone
# A thousand mounts of fifty images, one of them of 128 layers, in both presentations, by twenty
# processes at once: each shows its image, and unmounting leaves nothing.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse
$PY - "$LIB" "$T/images" <<'PY'
import sys
sys.path.insert(0, sys.argv[1])
from oci import *
shared = Layer(Tar().dir("bin").file("bin/tool", b"shared" * 999, mode=0o755))
for i in range(49):
    simple_image(f"{sys.argv[2]}/{i}", [shared, Layer(Tar().file("name", b"image %d\n" % i))])
simple_image(f"{sys.argv[2]}/49", [shared] + [Layer(Tar().file(f"f{k}", b"layer %d\n" % k)) for k in range(126)] +
             [Layer(Tar().file("name", b"image 49\n"))])
PY
mkdir -p "$M"/{0..49}/{0..19}
one() {  # one N: the Nth mount of every image
  local i
  for i in {0..49}; do ifs mount -q --mode "$mode" "oci:$T/images/$i" "$M/$i/$(($1 - 1))" >/dev/null || return 1; done
}
for mode in $(modes); do
  ifs images >/dev/null
  storm 20 one
  same "mounts" 1000 "$(ifs ls --json | field 'len(j)')"
  same "by $mode" 1000 "$(ifs ls --json | field "sum(m['mode'] == '$mode' for m in j)")"
  same "private mounts" 50 "$(mounts_below "$RUN" | wc -l)"
  for i in {0..49}; do
    for k in 0 7 19; do same "mount $k" "image $i" "$(cat "$M/$i/$k/name")"; done
  done
  same "layers of the deep one" "layer 125" "$(cat "$M/49/3/f125")"
  same "files" 128 "$(find "$M/49/5" -type f | wc -l)"
  rss=$(ifs status --json | field 'j["rss_bytes"] >> 20')
  echo "$mode: daemon of 1,000 mounts of 50 images: $rss MiB"
  ifs umount --all
  nothing_left "$M"
  [ -z "$(mounts_below "$RUN")" ] || fail "private mounts left: $(mounts_below "$RUN" | head -3)"
  ifs stop
done
