#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# An uncompressed layer of one large file without an index, cold, next to curl of its blob to the same disk:
# stored.sh [MIB [ROUNDS]], as root. How long the mount takes, a page at a random place after it, and then all of the file; of
# ROUNDS rounds in turn, each of a new store, the medians.
STORED_ARGS=${STORED_ARGS:-$*}
export STORED_ARGS
. "$(dirname "$0")/../tests/lib/lib.sh"
. "$(dirname "$0")/../tests/lib/lazy.sh"
need_root; need_fuse; need curl
read -r mib rounds _ <<<"$STORED_ARGS 2048 5"
start_registry registry
$PY - "$LIB" "$T/images/model" "$mib" <<'PY'
import os, sys
sys.path.insert(0, sys.argv[1])
from oci import *
simple_image(sys.argv[2], [Layer(Tar().file("weights", os.urandom(int(sys.argv[3]) << 20)), media=LAYER)])
PY
blob=$(layer_of model 0)
push "$T/images/model" test/model:1
rm -rf "$T/images/model/blobs"
ms() { local begin=${EPOCHREALTIME/./}; "$@" >/dev/null; echo $(((${EPOCHREALTIME/./} - begin) / 1000)); }
median() { sort -n | sed -n "$((rounds / 2 + 1))p"; }
page() { dd if="$1" of=/dev/null bs=4096 count=1 skip="$((RANDOM * mib / 128))" status=none; }
all() { dd if="$1" of=/dev/null bs=1M status=none; }
for round in $(seq "$rounds"); do
  ms curl -sS -o "$T/blob" "http://$REGISTRY/v2/test/model/blobs/sha256:$blob" >>"$T/curl"
  rm "$T/blob"
  for mode in $(modes); do
    store "$mode$round"
    mkdir -p "$M/$mode"
    ms ifs mount -q --mode "$mode" "$REGISTRY/test/model:1" "$M/$mode" >>"$T/mount-$mode"
    ms page "$M/$mode/weights" >>"$T/page-$mode"
    ms all "$M/$mode/weights" >>"$T/all-$mode"
    ifs umount --all
    ifs stop
    rm -rf "$ROOT"
  done
done
echo "curl to the disk: $(median <"$T/curl") ms for $mib MiB"
for mode in $(modes); do
  echo "$mode: mount $(median <"$T/mount-$mode") ms, a page $(median <"$T/page-$mode") ms, all $(median <"$T/all-$mode") ms"
done
