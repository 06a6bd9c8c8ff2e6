#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# long
# Layers that no well-behaved tool writes give the tree that containerd, podman and umoci make of them, but for what
# odd_tars.py says of each.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/containerd.sh"
need_fuse; need_containerd 1; need podman; need umoci; need zstd
start_containerd
status=0
mkdir -p "$T/containerd" "$T/podman" "$T/umoci"
for peer in "containerd $CONTAINERD/sock" podman umoci; do
  $PY "$TESTS/golden/compare_peers.py" "$peer" "$T/${peer%% *}" "$IMAGEFS" --root "$ROOT" --run "$RUN" -- "$@" || status=1
done
[ $status = 0 ] || fail "a runtime differs"
