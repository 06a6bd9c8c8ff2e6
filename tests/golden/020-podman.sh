#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# long
# For every image of the suite the mounted tree equals what podman unpacks.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/suite.sh"
need_root; need_fuse; need podman
serve_suite
for name in $(suite_names); do
  ref=$REGISTRY/suite/$name:latest
  if ! own_podman pull -q --tls-verify=false --os linux --arch amd64 "$ref" >"$T/pull.out" 2>&1; then
    judge_refusal podman "$name"
    continue
  fi
  theirs=$(own_podman image mount "$ref")
  judge podman "$name" "$theirs" --loose-root
  own_podman image umount "$ref" >/dev/null
done
[ $FAILED = 0 ] || fail "$FAILED images"
