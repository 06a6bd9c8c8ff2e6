#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Whose index is believed, source by source, for the command's mounts; and which bytes the kernel is given of an index that
# a registry served: those that this machine wrote of the tree in it, not those that came.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_fuse
start_registry registry
lazy_image app gzip
lazy_image stargz estargz
app=$REGISTRY/test/app:1 stargz=$REGISTRY/test/stargz:1
mkdir -p "$M/m"
# shown NAME REFERENCE: the states of its layers right after the mount; everything else is thrown away.
shown() {
  store "$1"
  ifs mount -q --mode fuse "$2" "$M/m" >/dev/null || fail "$1: the mount"
  local states
  states=$(states "$M/m")
  ifs umount "$M/m"
  ifs stop
  rm -rf "${ROOT:?}"
  case $states in *filling*) echo lazy ;; *) echo whole ;; esac
}

# Nothing is published: a pass, but for what the image says of itself.
same "nothing published" whole "$(shown nothing "$app")"
for trust in repository configured; do
  configure '[index]' "trust = \"$trust\"" '[fill]' 'background = false'
  same "$trust: table in the image" lazy "$(shown "in-$trust" "$stargz")"
done
# Beside the image: who may push there.
publish app
same "configured: beside" whole "$(shown beside-configured "$app")"
configure '[fill]' 'background = false'
same "default: beside" lazy "$(shown beside-default "$app")"
# In a repository of the configuration, which the other setting asks, too, after the image's own.
configure '[index]' 'trust = "configured"' "repositories = [\"$REGISTRY/fleet/indexes\"]" '[fill]' 'background = false'
same "configured: nothing there yet" whole "$(shown there-nothing "$app")"
(store publisher && rm -rf "$ROOT" && ifs index -q --push --to "$REGISTRY/fleet/indexes" "$app" && ifs stop)
same "configured: there" lazy "$(shown there "$app")"
configure '[index]' 'lookup = false' '[fill]' 'background = false'
same "no lookup: beside" whole "$(shown off "$app")"
same "no lookup: in the image" whole "$(shown off-in "$stargz")"
configure '[index]' 'trust = "everybody"'
refuse 7 'config.toml:2: index.trust must be' ifs mount -q "$app" "$M/m"
configure '[containerd]' 'lazy_images = ["debian:12"]'
refuse 7 'config.toml:2: containerd.lazy_images is invalid: .*a pattern is' ifs mount -q "$app" "$M/m"

# The index as it is written here, and as it comes: with bytes that a reader passes over, which a kernel might not.
configure '[fill]' 'background = false'
store right
ifs mount -q --mode fuse "$app" "$M/m" >/dev/null
same "states" filling "$(states "$M/m")"
right=$(sha256sum "$ROOT"/layers/*/index | awk '{print $1}' | sort)
ifs umount --all
ifs stop
$PY - "$LIB" "$REGISTRY/test/app" "$(manifest_of app)" "$T/served" <<'P'
import sys
sys.path.insert(0, sys.argv[1])
from lazy import *
place, subject, out = sys.argv[2:]
host, _, repository = place.partition("/")
registry, tag = Registry(host), f"sha256-{subject[7:]}.imagefs"
manifest = json.loads(registry.ask("GET", f"/v2/{repository}/manifests/{tag}", headers={"Accept": MANIFEST})[2])
with tempfile.TemporaryDirectory() as folder, open(out, "w") as served:
    for layer in manifest["layers"]:
        if layer["mediaType"] != LAYER_INDEX:
            continue
        parts = unpack_index(registry.ask("GET", f"/v2/{repository}/blobs/{layer['digest']}")[2])
        head, index = parts[:2]
        struct.pack_into("<I", index, 1024 + 8, struct.unpack_from("<I", index, 1024 + 8)[0] | 0x30)  # feature_compat
        index[1024 + 48:1024 + 64] = b"?" * 16                    # uuid
        root = struct.unpack_from("<H", index, 1024 + 14)[0] * 32
        index[root + 48:root + 64] = b"?" * 16                    # reserved bytes of an inode
        index += b"?" * 4096                                      # behind the last block
        struct.pack_into("<I", index, 1028, 0)
        struct.pack_into("<I", index, 1028, crc32c(index[1024:1536]))
        served.write(hashlib.sha256(index).hexdigest() + "\n")
        struct.pack_into("<Q", head, 24, len(index))
        blob = pack_index(parts)
        layer["digest"], layer["size"] = sha256(blob), len(blob)
        open(folder + "/blob", "wb").write(blob)
        registry.push_blob(repository, folder + "/blob", layer["digest"])
registry.push_manifest(repository, json.dumps(manifest).encode(), MANIFEST, tag)
P
# written STORE: what lies in the store is what this machine writes, and nothing of what was served.
written() {
  local here
  here=$(find "$ROOT/layers" -name index -exec sha256sum {} + | awk '{print $1}' | sort)
  [ -z "$(comm -12 <(sort "$T/served") <(echo "$here"))" ] || fail "$1: an index lies here as it was served"
  same "$1: indexes" "$right" "$here"
  grep -rqF '????????' "$ROOT/layers"/*/index "$ROOT/chains" && fail "$1: bytes of the registry's are left" || true
}
for mode in $(modes); do
  store "served-$mode"
  ifs mount -q --mode "$mode" "$app" "$M/m" >/dev/null
  same "$mode: states" filling "$(states "$M/m")"
  written "$mode"
  ifs umount "$M/m"
  ifs stop
done

# Podman's layer store is where the kernel mounts the index of a single layer.
[ "$(id -u)" = 0 ] && modes | grep -qx kernel || { echo "NOT TESTED: podman's layer store, which needs root and the kernel's mounts"; exit 0; }
configure '[podman]' 'layers = true' 'lazy = "any"' '[fill]' 'background = false'
store podman
mkdir -p "$ROOT" "$RUN"
ifs images >/dev/null
layer=$RUN/als/$(printf %s "$app" | base64 -w0)/sha256:$(layer_of app 0)
ls "$layer/diff" >/dev/null || fail "podman's layer store has no layer"
grep -F "$RUN" /proc/self/mountinfo | grep -q ' erofs ' || fail "the kernel mounts no index: $(grep -F "$RUN" /proc/self/mountinfo)"
written podman
peers=$SOURCE/build/peers/erofs
if timeout 300 "$SOURCE/scripts/unpack.sh" sid "$peers" erofs-utils >"$T/unpack.log" 2>&1 && "$peers/run" /usr/bin/fsck.erofs --version >/dev/null 2>&1; then
  for index in "$ROOT"/layers/*/index; do
    "$peers/run" /usr/bin/fsck.erofs "--device=$(dirname "$index")/data" "$index" >"$T/fsck.out" 2>&1 || { cat "$T/fsck.out"; fail "fsck.erofs refuses $index"; }
  done
else
  echo "NOT TESTED: fsck.erofs (no newer erofs-utils)"
fi
