#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Wrong bytes: every broken image is refused with the layer or document named, and a store that has
# seen them serves good ones.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse
$PY - "$LIB" "$T/images" <<'PY'
import gzip, json, os, random, sys
sys.path.insert(0, sys.argv[1])
from oci import *
out = sys.argv[2]
t = Tar()
for i in range(300):
    t.file(f"file{i}", random.Random(i).randbytes(1000))
raw, good = t.bytes(), None
good = gzipped(raw)
def make(name, layer, **kw):
    simple_image(f"{out}/{name}", layer if isinstance(layer, list) else [layer], **kw)
make("good", Layer(raw))
make("truncated-gzip", Layer(raw, blob=good[:len(good) // 2]))
make("garbage-gzip", Layer(raw, blob=good[:5000] + bytes(200) + good[5200:]))
make("gzip-crc", Layer(raw, blob=good[:-8] + b"\1\2\3\4" + good[-4:]))
make("no-gzip", Layer(raw, blob=random.Random(1).randbytes(5000)))
z = zstded(raw)
make("truncated-zstd", Layer(raw, LAYER_ZSTD, blob=z[:len(z) // 2]))
make("garbage-zstd", Layer(raw, LAYER_ZSTD, blob=z[:3000] + bytes(200) + z[3200:]))
make("empty-blob", Layer(raw, blob=b""))
make("truncated-tar", Layer(raw[:1000]))
broken = bytearray(raw); broken[1536 + 148] ^= 7
make("tar-checksum", Layer(bytes(broken)))
make("garbage-tar", Layer(b"this is no tar " * 1000))
make("wrong-diff-id", Layer(raw, diff_id="sha256:" + "1" * 64))
make("dotdot", Layer(Tar().file("ok", b"1").file("a/../../escape", b"2")))
make("bad-whiteout", Layer(Tar().add("d/.wh..")))
make("link-to-nothing", Layer(Tar().hardlink("l", "absent")))
make("link-to-dir", Layer(Tar().dir("d").hardlink("l", "d")))
make("long-name", Layer(Tar().file("n" * 256, b"")))
make("encrypted", Layer(raw, LAYER_GZIP + "+encrypted", blob=good))
make("unknown-entry", Layer(Tar().add("x", "Q")))
make("huge-size", Layer(Tar().add("x", "0", size=8 ** 11 - 1).bytes()))

layout = Layout(f"{out}/layer-count")
config = layout.blob(json.dumps({"os": "linux", "architecture": "amd64", "rootfs": {"type": "layers", "diff_ids": []}}).encode())
layer = Layer(raw)
def manifest(name, **change):
    l = Layout(f"{out}/{name}")
    d = l.image([layer])
    m = json.loads(open(f"{l.path}/blobs/sha256/{d['digest'][7:]}").read())
    for key, value in change.items():
        if value is None: m.pop(key)
        else: m[key] = value
    l.tag(l.manifest(m, MANIFEST))
l = Layout(f"{out}/layer-count")
d = l.image([layer], config_extra={"rootfs": {"type": "layers", "diff_ids": [layer.diff_id] * 2}})
l.tag(d)
manifest("no-config", config=None)
manifest("no-layers", layers=None)
manifest("schema1", schemaVersion=1)
manifest("bad-digest", layers=[{"mediaType": LAYER_GZIP, "size": 10, "digest": "sha256:../../../etc/passwd"}])
manifest("negative-size", layers=[{"mediaType": LAYER_GZIP, "size": -5, "digest": "sha256:" + "2" * 64}])
manifest("huge-layer", layers=[{"mediaType": LAYER_GZIP, "size": 1 << 62, "digest": layer.diff_id}])
for name, text in (("no-json", b"{{{{"), ("deep-json", b"[" * 100000), ("big-manifest", b'{"schemaVersion": 2, "x": "' + b"y" * (9 << 20) + b'"}')):
    l = Layout(f"{out}/{name}")
    l.tag(l.manifest(text, MANIFEST))
# The size or the bytes of a blob are not those promised.
l = simple_image(f"{out}/wrong-bytes", [Layer(raw)])
path = f"{l.path}/blobs/sha256/{sha256(good)[7:]}"
open(path, "wb").write(good[:-1] + b"!")
l = simple_image(f"{out}/short-blob", [Layer(raw)])
path = f"{l.path}/blobs/sha256/{sha256(good)[7:]}"
open(path, "wb").write(good[:-100])
l = simple_image(f"{out}/windows", [Layer(raw)], platform=("windows", "amd64", ""))
PY
mkdir "$M/a" "$M/good"
failures=0
for path in "$T"/images/*/; do
  name=$(basename "$path")
  [ "$name" != good ] || continue
  if (refuse '1|3' "$name|sha256:|manifest|config|layer|platform" ifs mount -q "oci:$T/images/$name" "$M/a"; nothing_left "$M/a"); then
    echo "$name: $(cat "$T/err")"
  else
    echo "$name: NOT REFUSED AS IT SHOULD"
    failures=$((failures + 1))
    umount "$M/a" 2>/dev/null || true
  fi
done
[ $failures = 0 ] || fail "$failures broken images"
ifs mount -q "oci:$T/images/good" "$M/good" >/dev/null
same "files" 300 "$(ls "$M/good" | wc -l)"
same "layers kept" 1 "$(ifs status --json | field 'len([l for l in j["layers"] if l["state"] in ("written", "complete")])')"
