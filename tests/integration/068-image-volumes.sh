#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Images as volumes (KEP-4639), as the kubelet asks containerd 2.1 and newer for them: pulled, then named in the mounts of
# a container; lazy where an index is published, read-only, and gone with the container. `ctr images mount` the same.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/containerd.sh"
. "$(dirname "$0")/../lib/snapshots.sh"
. "$(dirname "$0")/../lib/lazy.sh"
configure '[fill]' 'background = false' '[containerd]' 'lazy = "repository"'
need_containerd 1; need_containerd 2
start_registry registry
start_shaper line
plain_host "$SHAPED"
pause_image
tool_image tools
lazy_image data gzip 3 4
publish data
truth data "$T/truth"
serve --config "$T/config.toml"
start_containerd containerd2 2 imagefs
data=$SHAPED/test/data:1
exec_in() { cri exec-sync "$1" sh -c "$2" | field 'j["stdout"].rstrip()'; }

forget_requests
cri pull "$REGISTRY/test/tools:1" "$data" >"$T/pulled" || fail "$(cat "$T/pulled")"
same "unpacked by the pulls" 0 "$(counter snapshot_layers_unpacked)"
total=$(cat "$T/images/data"/blobs/sha256/* | wc -c)
[ $(($(sent data) * 20)) -lt "$total" ] || fail "the pull fetched $(sent data) of $total bytes"
pod=$(pod volumes)
id=$(IMAGE_VOLUME=/volume=$data container "$pod" volumes main "$REGISTRY/test/tools:1" sleep 1000)
same "the volume is another file system" 2 "$(exec_in "$id" 'stat -c %d / /volume' | sort -u | wc -l)"
# Without what a layer that is not proven yet shows as an empty file (a device).
exec_in "$id" 'cd /volume && find . -type f ! -name null' | sort >"$T/files"
same "files" "$(cd "$T/truth" && find . -type f | sort | sha256sum)" "$(sha256sum <"$T/files")"
[ "$(sent data)" -lt "$total" ] || fail "all was fetched, $(sent data) bytes, before anything was read"
while read -r file; do
  same "$file" "$(sha256sum <"$T/truth/$file" | cut -d' ' -f1)" "$(exec_in "$id" "sha256sum '/volume/$file'" | cut -d' ' -f1)"
done < <(shuf -n 12 --random-source="$LIB/lazy.py" "$T/files")
exec_in "$id" 'touch /volume/new 2>&1; echo $?' | grep -q 1$ || fail "the volume can be written to"

# The daemon may go meanwhile.
stop_serving KILL; serve --config "$T/config.toml"
echo 1 >/proc/sys/vm/drop_caches
file=$(head -n 1 "$T/files")
same "after a restart of the daemon" "$(sha256sum <"$T/truth/$file" | cut -d' ' -f1)" "$(exec_in "$id" "sha256sum '/volume/$file'" | cut -d' ' -f1)"
cri stop "$id" >/dev/null; cri rm "$id" >/dev/null
remove_pod "$pod"

# By hand.
mkdir "$T/by-hand"
own_ctr -n k8s.io images mount --snapshotter imagefs "$data" "$T/by-hand" >/dev/null
# What was read may have been the rest of a layer, which is proven then.
$PY "$LIB/tree.py" compare "$T/truth" "$T/by-hand" --disarmed >"$T/compared" 2>&1 ||
  $PY "$LIB/tree.py" compare "$T/truth" "$T/by-hand" || fail "ctr images mount shows another tree: $(cat "$T/compared")"
own_ctr -n k8s.io images unmount --rm --snapshotter imagefs "$T/by-hand" >/dev/null
for image in "$data" "$REGISTRY/test/tools:1" "$PAUSE"; do cri rmi "$image" >/dev/null; done
wait_for 30 '[ "$(counter snapshots)" = 0 ]' || fail "snapshots stay: $(snapshots k8s.io)"
wait_for 30 '[ -z "$(mounts_below "$RUN")" ]' || fail "mounts stay: $(mounts_below "$RUN")"
