#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A node whose default snapshotter changes from overlayfs to imagefs and back, as docs/kubernetes.md warns of it where images
# are not removed: what was unpacked before is unpacked again, and what shares a base with it is not lazy; what was pulled
# lazily cannot be used by overlayfs until it is removed and pulled again.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/containerd.sh"
. "$(dirname "$0")/../lib/snapshots.sh"
need_containerd 1; need_containerd 2
start_registry registry
pause_image
$PY - "$LIB" "$T/images" <<'P'
import sys
sys.path.insert(0, sys.argv[1])
from oci import *
tools = host_tar(["sh", "cat", "sleep"])
for name in ("first", "second"):
    simple_image(f"{sys.argv[2]}/{name}", [tools, Tar().file("name", name.encode() + b"\n")])
simple_image(sys.argv[2] + "/third", [host_tar(["sh", "cat", "sleep", "ls"]), Tar().file("name", b"third\n")])
P
for name in first second third; do push "$T/images/$name" "test/$name:1" >/dev/null; done
serve
CONTAINERD=$T/containerd2
snapshotter() {  # the default is this one from here on
  [ ! -e "$CONTAINERD/pid" ] || stop_containerd
  start_containerd containerd2 2 imagefs
  stop_containerd
  sed -i "/v1.images\"\]/,/snapshotter/s/snapshotter = .*/snapshotter = \"$1\"/" "$CONTAINERD/config.toml"
  printf '[[plugins."io.containerd.transfer.v1.local".unpack_config]]\n  platform = "linux"\n  snapshotter = "overlayfs"\n  differ = "walking"\n' \
    >>"$CONTAINERD/config.toml"
  resume_containerd
}
ref() { echo "$REGISTRY/test/$1:1"; }
says() {  # says IMAGE: what a new container of it has
  local pod id
  pod=$(pod "p$RANDOM") || return 1
  if id=$(container "$pod" pod main "$(ref "$1")" sleep 1000 2>"$T/err") && [ -n "$id" ]; then
    cri exec-sync "$id" cat /name | field 'j["stdout"].rstrip()'
    cri stop "$id" >/dev/null; cri rm "$id" >/dev/null
  fi
  remove_pod "$pod"
}
pull() { cri pull "$@" >"$T/pulled" || fail "$(cat "$T/pulled")"; }

snapshotter overlayfs
pull "$(ref first)" "$PAUSE"
same "by overlayfs" first "$(says first)"

snapshotter imagefs
same "an image of before" first "$(says first)"
before=$(counter snapshot_layers_unpacked)
pull "$(ref second)"
[ "$(counter snapshot_layers_unpacked)" -gt "$before" ] || fail "an image on a base that was unpacked is lazy"
[ "$(counter snapshot_layers_unpacked_parent)" -gt 0 ] || fail "the cause is not counted"
same "it works" second "$(says second)"
before=$(counter snapshot_layers_unpacked)
pull "$(ref third)"
same "unpacked of an image that shares nothing" "$before" "$(counter snapshot_layers_unpacked)"
same "it works as well" third "$(says third)"
# As the document says: removed, and pulled again.
for name in first second; do cri rmi "$(ref $name)" >/dev/null; done
before=$(counter snapshot_layers_unpacked)
pull "$(ref second)"
same "unpacked once the old images are gone" "$before" "$(counter snapshot_layers_unpacked)"

snapshotter overlayfs
cri rmi "$PAUSE" >/dev/null; pull "$PAUSE"
same "a lazily pulled image, by overlayfs" "" "$(says third)"
cri rmi "$(ref third)" >/dev/null
pull "$(ref third)"
same "pulled again" third "$(says third)"
stop_containerd
