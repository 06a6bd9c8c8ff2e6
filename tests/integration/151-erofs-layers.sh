#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Native EROFS layers, plain and in zstd, in chains with tars, made by mkfs.erofs from directories as overlayfs has them:
# each image shows what an overlay of the same layers shows. What cannot be read is refused.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse; need mkfs.erofs; need docker-registry; need zstd; need setfattr
if [ -z "${IMAGEFS_TEST_NAMESPACE:-}" ]; then
  exec env IMAGEFS_TEST_NAMESPACE=1 unshare -m --propagation private "$0"
fi
start_registry reg
mkdir "$T/src" "$M/t" "$M/o"
mount -t tmpfs tmpfs "$T/src"  # device nodes 0:0 and trusted.overlay.* are only bytes there
cd "$T/src"

# Four layers as upper directories.
mkdir -p l1/etc l1/gone l1/opaque l1/kept l2/opaque l2/kept/deep l3/etc l4/new
echo base >l1/etc/base; echo lower >l1/opaque/lower; echo x >l1/gone/x; echo kept >l1/kept/file
head -c 300000 /dev/urandom >l1/big
mknod l2/gone c 0 0
setfattr -n trusted.overlay.opaque -v y l2/opaque
echo upper >l2/opaque/upper; echo replaced >l2/etc 2>/dev/null || true
ln -s base l2/kept/link; ln l2/opaque/upper l2/kept/same
mknod l2/kept/device b 300 70000; mkfifo l2/kept/fifo
head -c 4096 /dev/urandom >l2/kept/block; head -c 8193 /dev/urandom >l2/kept/tail; : >l2/kept/empty
head -c 5000000 /dev/urandom >l2/kept/large
chown 70000:80000 l2/kept/tail; chmod 4755 l2/kept/block
setfattr -n trusted.mine -v value l2/kept/tail
setcap cap_net_raw+ep l2/kept/block
for i in $(seq 300); do echo "$i" >"l2/kept/deep/file$i"; done
truncate -s 1M l2/kept/sparse; printf end >>l2/kept/sparse
touch -d '2001-02-03 04:05:06.789' l2/kept/tail; touch -d '1999-01-01' l2/kept/deep
echo tar >l3/etc/tar
echo zstd >l4/new/file; mknod l4/kept c 0 0
rm -f l2/etc
make_erofs() { mkfs.erofs -d0 "${@:2}" "$T/$1.erofs" "$1" >"$T/mkfs" 2>&1 || fail "mkfs.erofs: $(tail -c 300 "$T/mkfs")"; }
make_erofs l2; make_erofs l4
mkdir chunked; cp -a l2/kept/{large,sparse,empty,fifo,block} chunked/; make_erofs chunked --chunksize=4096
for layer in l1 l3; do tar -C "$layer" --numeric-owner --xattrs --xattrs-include='*' -cf "$layer.tar" .; done

# An image for each set of layers, and what an overlay of their directories shows.
$PY - "$LIB" "$T/src" "$T/images" <<'PY'
import sys
sys.path.insert(0, sys.argv[1])
from oci import *
src, images = sys.argv[2:]
read = lambda name: open(f"{src}/{name}", "rb").read()
EROFS = "application/vnd.erofs.layer.v1"
tar = lambda name: Layer(read(name + ".tar"))
def erofs(name, media=EROFS):
    data = read(f"../{name}.erofs")
    return Layer(data, media, blob=zstded(data) if media.endswith("zstd") else data)
simple_image(images + "/mixed", [tar("l1"), erofs("l2"), tar("l3"), erofs("l4", EROFS + "+zstd")])
simple_image(images + "/alone", [erofs("l2", "application/vnd.erofs")])
simple_image(images + "/chunked", [tar("l1"), erofs("chunked", "application/vnd.erofs+zstd")])
layout = Layout(images + "/platforms")
plain, features = layout.image([tar("l1")]), layout.image([erofs("l2")])
features["platform"]["os.features"] = ["erofs"]
layout.tag(layout.index([features, plain]))
# The same bytes, claimed to be a tar: an EROFS image begins like an empty one.
data = read("../l2.erofs")
simple_image(images + "/liar", [Layer(data, LAYER)])
wrong = Layer(data, EROFS, diff_id=sha256(b"other"))
simple_image(images + "/wrong", [wrong])
bad = bytearray(data)
bad[1024 + 12] = 60
simple_image(images + "/bad", [Layer(bytes(bad), EROFS)])
PY
show() {  # show IMAGE LAYER...: compares, upper layers last
  local lower=$M/none layer
  mkdir -p "$M/none"
  for layer in "${@:2}"; do lower=$T/src/$layer:$lower; done
  mount -t overlay -o "lowerdir=$lower" overlay "$M/o"
  for mode in $(modes); do
    ifs mount -q --mode "$mode" "oci:$T/images/$1" "$M/t" >/dev/null
    $PY "$LIB/tree.py" compare "$M/o" "$M/t" --loose-root || fail "$1 shown by $mode is another tree"
    ifs umount "$M/t"
  done
  umount "$M/o"
}
# Kept for later: a tar of that DiffID must not become the layer of the others.
if ifs mount -q "oci:$T/images/liar" "$M/t" >/dev/null 2>&1; then
  same "an EROFS image as a tar" "" "$(ls -A "$M/t")"
  ifs umount "$M/t"
fi
show mixed l1 l2 l3 l4
show alone l2
show chunked l1 chunked

# From a registry, again by another daemon, checked, and repaired from its own data.
push "$T/images/mixed" erofs/mixed:1
ifs pull -q --plain-http "$REGISTRY/erofs/mixed:1" >/dev/null
ifs stop; wait_for 20 '[ -z "$(daemons)" ]'
show alone l2
ifs check >/dev/null || fail "check: $(ifs check)"
index=$(find "$ROOT/layers" -name index -size +20k -print -quit)
printf X | dd of="$index" bs=1 seek=3000 conv=notrunc status=none
(set +e; ifs check --repair >"$T/checked"; [ $? = 3 ]) || fail "damage was not found: $(cat "$T/checked")"
show mixed l1 l2 l3 l4
types=$(ifs --json inspect "oci:$T/images/mixed" | field '[l["media_type"].split(".")[-1] for l in j["layers"]]')
same "the types" '["tar+gzip", "v1", "tar+gzip", "v1+zstd"]' "$types"

# With and without os.features: a tar is preferred.
ifs mount -q "oci:$T/images/platforms" "$M/t" >/dev/null
[ -e "$M/t/etc/base" ] || fail "the image with os.features was chosen: $(ls "$M/t")"
ifs umount "$M/t"

# What is refused.
refuse 3 'instead of the expected' ifs mount -q "oci:$T/images/wrong" "$M/t"
refuse 1 'EROFS image is malformed' ifs mount -q "oci:$T/images/bad" "$M/t"
mkdir packed; head -c 300000 /dev/zero | tr '\0' x >packed/file
if mkfs.erofs -zlz4 "$T/compressed.erofs" packed >/dev/null 2>&1; then
  $PY - "$LIB" "$T" <<'PY'
import sys
sys.path.insert(0, sys.argv[1])
from oci import *
data = open(sys.argv[2] + "/compressed.erofs", "rb").read()
simple_image(sys.argv[2] + "/images/compressed", [Layer(data, "application/vnd.erofs")])
PY
  refuse 1 'compressed files, which is not supported; make it with plain data' \
    ifs mount -q "oci:$T/images/compressed" "$M/t"
else
  echo "NOT TESTED: compressed EROFS: mkfs.erofs has no lz4" >&2
fi
ifs stop
cd /
umount "$T/src"
nothing_left "$M"
