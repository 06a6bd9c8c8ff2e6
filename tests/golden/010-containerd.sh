#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# long
# For every image of the suite the mounted tree equals what containerd unpacks with overlayfs.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/containerd.sh"
. "$(dirname "$0")/suite.sh"
need_fuse; need_containerd 1
serve_suite
start_containerd
for name in $(suite_names); do
  ref=$REGISTRY/suite/$name:latest
  if ! own_ctr image pull --plain-http --platform linux/amd64 "$ref" >"$T/pull.out" 2>&1; then
    judge_refusal containerd "$name"
    continue
  fi
  mkdir -p "$T/theirs/$name"
  own_ctr image mount --platform linux/amd64 "$ref" "$T/theirs/$name" >/dev/null
  judge containerd "$name" "$T/theirs/$name"
  umount "$T/theirs/$name"
done
[ $FAILED = 0 ] || fail "$FAILED images"
