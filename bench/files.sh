#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# `imagefs export` against tar(1) over a mount of the same image, by FUSE and by `auto`, in turns: seconds of three rounds.
. "$(dirname "$0")/../tests/lib/lib.sh"
need_root; need_fuse
big_image large one=100 two=40
$PY - "$LIB" "$T/images/many" <<'PY'
import sys
sys.path.insert(0, sys.argv[1])
from oci import *
t = Tar()
for d in range(500):
    t.dir(f"d{d}")
    for i in range(100):
        t.file(f"d{d}/f{i}", b"%d" % i * 300)
simple_image(sys.argv[2], [Layer(t)])
PY
timed() {  # timed NAME COMMAND...
  local begin
  begin=$(date +%s%N)
  "${@:2}" | cat >/dev/null
  echo "$1 $((($(date +%s%N) - begin) / 1000000)) ms"
}
for image in large many; do
  ref=oci:$T/images/$image
  mkdir -p "$M/fuse" "$M/auto"
  ifs mount -q --mode fuse "$ref" "$M/fuse" >/dev/null
  ifs mount -q "$ref" "$M/auto" >/dev/null
  for _ in 1 2 3; do
    timed "$image export" ifs export "$ref"
    timed "$image tar-fuse" tar -C "$M/fuse" --xattrs --format=pax -c .
    timed "$image tar-auto" tar -C "$M/auto" --xattrs --format=pax -c .
  done
  timed "$image ls-files" ifs ls-files "$ref"
  ifs umount --all
done
ifs stop
