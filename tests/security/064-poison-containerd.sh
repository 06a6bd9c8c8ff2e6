#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Through containerd 1.6 and 2.x: an eStargz image that claims the DiffID of a genuine one, pulled before and after it
# into one namespace, over a restart and an eviction. containerd shares a snapshot by its ChainID with every image
# of the node, so it is told of a layer only when that is proven: the genuine image shows genuine files.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
. "$(dirname "$0")/../lib/containerd.sh"
. "$(dirname "$0")/../lib/snapshots.sh"
need_containerd 1
start_registry registry
$PY "$LIB/claims.py" twins-estargz "$T/images"
for name in legit evil; do push "$T/images/$name" test/$name:1 >/dev/null; done
# Another one of its kind, whose blobs are not even what they are said to be.
$PY "$LIB/claims.py" thief "$T/images/legit" "$REGISTRY" test/thief
chain=$(ifs inspect --json "$REGISTRY/test/legit:1" | field 'j["chain_id"]')
ifs stop

# The chain of the genuine image as a container gets it, through an ordinary view.
shows() {  # shows WORD MODE WHAT
  mkdir -p "$T/show"
  own_ctr -n k8s.io snapshots --snapshotter imagefs view --target "$T/show" "view-$RANDOM" "$name_of" >"$T/mount.sh" 2>"$T/err" ||
    fail "$3: no view of $name_of: $(cat "$T/err")"
  bash "$T/mount.sh"
  local word mode
  word=$(head -c 8 "$T/show/bin/login") mode=$(stat -c %a "$T/show/bin/login")
  umount "$T/show"
  same "$3: bin/login" "$1" "$word"
  same "$3: mode" "$2" "$mode"
}
find_snapshot() {  # containerd 1.6 and 2.x name a snapshot by its ChainID, or find ours by its label
  name_of=$(snapshots k8s.io | awk '{print $1}' | grep -E "^(imagefs/)?(sha256:)?${chain#sha256:}" | head -1)
  [ -n "$name_of" ] || fail "no snapshot of $chain: $(snapshots k8s.io)"
}

run_both() {  # run_both VERSION FIRST SECOND
  local version=$1 what="containerd $1, $2 first"
  store "$version-$2"
  : >"$T/config.toml"
  serve --config "$T/config.toml"
  start_containerd "c$version-$2" "$version" imagefs
  for image in "$2" thief "$3"; do
    local status=0
    cri pull "$REGISTRY/test/$image:1" >"$T/pull.$image" 2>&1 || status=$?
    # containerd itself refuses what has not the DiffID that it claims, as long as it has no snapshot of that ChainID:
    # then it asks nobody.
    if [ $image = legit ]; then same "$what: pull of $image" 0 $status
    elif [ "$2" = evil ]; then [ $status != 0 ] || fail "$what: $image was pulled"; fi
  done
  find_snapshot
  shows 'GENUINE ' 755 "$what"
  stop_serving
  serve --config "$T/config.toml"
  shows 'GENUINE ' 755 "$what, after a restart"
  same "$what: unproven layers in the store" 0 \
    "$(ifs status --json | field 'sum(l["source"] not in ("proven", "") for l in j["layers"])')"
  stop_containerd
  stop_serving
}
for version in 1 2; do
  [ $version = 1 ] || (need_containerd 2) || continue
  run_both $version evil legit
  run_both $version legit evil
done
