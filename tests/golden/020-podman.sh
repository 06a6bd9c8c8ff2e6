#!/bin/bash
# For every image of the suite the mounted tree equals what podman unpacks.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/suite.sh"
need_root; need_fuse; need podman
serve_suite
for name in $(suite_names); do
  ref=$REGISTRY/suite/$name:latest
  if ! own_podman pull -q --tls-verify=false --os linux --arch amd64 "$ref" >"$T/pull.out" 2>&1; then
    if known refused podman "$name"; then
      report "$name" "refused by podman, as known"
    else
      tail -n 1 "$T/pull.out"
      report "$name" "failed: podman refuses it and is not known to"
    fi
    continue
  fi
  theirs=$(own_podman image mount "$ref")
  if ! mount_ours "$name"; then
    report "$name" "failed to mount"
  elif $PY "$LIB/tree.py" compare "$theirs" "$M/$name" "$T/images/$name.json" --loose-root; then
    report "$name" "equal"
  elif known differs podman "$name"; then
    report "$name" "differs from podman, as known"
  else
    report "$name" "different"
  fi
  own_podman image umount "$ref" >/dev/null
done
[ $FAILED = 0 ] || fail "$FAILED images"
