#!/bin/bash
# For every image of the suite the mounted tree equals what containerd unpacks with overlayfs.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/suite.sh"
need_root; need_fuse; need containerd; need ctr
serve_suite
start_containerd
for name in $(suite_names); do
  ref=$REGISTRY/suite/$name:latest
  if ! own_ctr image pull --plain-http --platform linux/amd64 "$ref" >"$T/pull.out" 2>&1; then
    if known refused containerd "$name"; then
      report "$name" "refused by containerd, as known"
    else
      tail -n 1 "$T/pull.out"
      report "$name" "failed: containerd refuses it and is not known to"
    fi
    continue
  fi
  mkdir -p "$T/theirs/$name"
  own_ctr image mount --platform linux/amd64 "$ref" "$T/theirs/$name" >/dev/null
  if ! mount_ours "$name"; then
    report "$name" "failed to mount"
  elif $PY "$LIB/tree.py" compare "$T/theirs/$name" "$M/$name" "$T/images/$name.json"; then
    report "$name" "equal"
  elif known differs containerd "$name"; then
    report "$name" "differs from containerd, as known"
  else
    report "$name" "different"
  fi
  umount "$T/theirs/$name"
done
[ $FAILED = 0 ] || fail "$FAILED images"
