#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Artifacts as trees, from a real registry and from a layout: a model shaped as modctl writes it, files and a directory
# shaped as ORAS writes them, a Helm chart, nameless blobs. Each is compared with the files that it was made from.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse; need docker-registry; need zstd
if [ -z "${IMAGEFS_TEST_NAMESPACE:-}" ]; then
  exec env IMAGEFS_TEST_NAMESPACE=1 unshare -m --propagation private "$0"
fi
start_registry reg

# Makes the layouts below $T/images and the expected trees below $T/expected.
$PY - "$LIB" "$T/images" "$T/expected" <<'PY'
import json, os, random, sys
sys.path.insert(0, sys.argv[1])
from artifacts import *
images, expected = sys.argv[2:]
weights = random.Random(1).randbytes(3 << 20)

a = Artifact(images + "/model", expected + "/model", "application/vnd.cncf.model.manifest.v1+json")
a.model_file("model-00001.safetensors", weights, mode=0o640, uid=1000, gid=100, mtime=(1700000000, 123456789))
a.model_file("vae/empty.bin", b"", kind="weight")
a.model_file("tokenizer.json", b'{"a": 1}\n' * 700, kind="weight.config")
a.model_tar({"scripts/run.py": b"print(1)\n", "scripts/lib/a.py": b"a" * 5000}, "code", ".tar")
a.model_tar({"README.md": b"# model\n"}, "doc", ".tar+gzip")
a.model_tar({"LICENSE": b"free\n"}, "doc", ".tar+zstd")
# A compressed file stays one.
a.model_file("data.tar.gz", gzipped(Tar().file("inside", b"x").bytes()), kind="dataset")
a.write(config_type="application/vnd.cncf.model.config.v1+json", config={
    "descriptor": {"name": "m"}, "config": {"paramSize": "1b"},
    "modelfs": {"type": "layers", "diffIds": [b["digest"] for b in a.blobs]}})

a = Artifact(images + "/oras", expected + "/oras", "application/vnd.example")
a.title("./hello.txt", b"hello\n", "application/vnd.oci.image.layer.v1.tar")
a.title("deep/er/data.bin", weights[:100000], "application/octet-stream")
a.unpacked("dir", {"dir/one": b"1", "dir/sub/two": b"2" * 3000})
a.write()

a = Artifact(images + "/chart", expected + "/chart", "")
archive = gzipped(Tar().file("web/Chart.yaml", b"name: web\nversion: 1.2.3\n").bytes())
a.blob("web-1.2.3.tgz", archive, "application/vnd.cncf.helm.chart.content.v1.tar+gzip")
a.blob("web-1.2.3.tgz.prov", b"signed\n", "application/vnd.cncf.helm.chart.provenance.v1.prov")
a.write(config_type="application/vnd.cncf.helm.config.v1+json", config={"name": "web", "version": "1.2.3"})

a = Artifact(images + "/nameless", expected + "/nameless", "application/vnd.example")
a.blob("sha256-" + sha256(b"x")[7:], b"x", "application/vnd.example.thing")
a.write()

# Many files, of which two have the same content.
a = Artifact(images + "/many", expected + "/many", "application/vnd.example")
for i in range(300):
    a.title(f"d{i % 7}/f{i}", b"%d" % (i // 2) * 100, "text/plain")
a.write()
PY
mkdir "$M/t" "$T/made"
for name in model oras chart nameless many; do
  push "$T/images/$name" "artifacts/$name:1"
  ref=$REGISTRY/artifacts/$name:1
  for mode in $(modes); do
    ifs mount -q --plain-http --mode "$mode" "$ref" "$M/t" >/dev/null
    $PY "$LIB/tree.py" compare "$T/expected/$name" "$M/t" --loose-root || fail "$name shown by $mode is another tree"
    ifs umount "$M/t"
  done
  mkdir "$T/made/$name"
  ifs cp --plain-http "$ref:/." "$T/made/$name"
  $PY "$LIB/tree.py" compare "$T/expected/$name" "$T/made/$name" --loose-root || fail "cp of $name gives another tree"
  mkdir "$T/made/$name.tar"
  ifs export --plain-http "$ref" | tar -C "$T/made/$name.tar" --numeric-owner -xpf -
  $PY "$LIB/tree.py" compare "$T/expected/$name" "$T/made/$name.tar" --loose-root || fail "export of $name is another tree"
  ifs diff --times --exit-code --plain-http "$ref" "oci:$T/images/$name" || fail "the layout of $name is another tree"
done
REF=$REGISTRY/artifacts/model:1

# What it is.
type=application/vnd.cncf.model.manifest.v1+json
same "artifact_type" "$type" "$(ifs --json inspect --plain-http "$REF" | field 'j["artifact_type"]')"
ifs inspect --plain-http "$REF" | grep -qx "artifact   $type" || fail "inspect does not say what it is"
same "the type of a chart" application/vnd.cncf.helm.config.v1+json \
  "$(ifs --json inspect --plain-http "$REGISTRY/artifacts/chart:1" | field 'j["artifact_type"]')"
ifs images "$REF" | grep -q 'artifact .*complete\|artifact .*written' || fail "images: $(ifs images "$REF")"
same "images" "$type" "$(ifs --json images "$REF" | field 'j[0]["artifact_type"] + j[0]["platform"]')"
# It has no platform; the store knows it by each.
same "without the registry" "a" "$(ifs cat --plain-http --pull never --platform linux/s390x "$REF" /scripts/lib/a.py | head -c 1)"
ifs cat --plain-http "$REF" /data.tar.gz | gzip -t || fail "a compressed file was decompressed"

# What it cannot do.
for verb in "run" "shell" "bundle"; do
  refuse '1|125' "is an artifact .*, not an image" ifs $verb --plain-http "$REF" $([ $verb != bundle ] || echo "$T/bundle")
done
refuse 1 "is an artifact .*imagefs mount" ifs index --plain-http -o "$T/index" "$REF"

# Writable, also after a restart of the daemon; in another store; checked and repaired.
ifs mount -q --plain-http --rw "$REF" "$M/t" >/dev/null
echo more >>"$M/t/README.md"
same "a changed file" more "$(tail -1 "$M/t/README.md")"
ifs umount "$M/t"
ifs pull -q --plain-http "$REF" >/dev/null
ifs stop; wait_for 20 '[ -z "$(daemons)" ]'
ifs mount -q --pull never "$REF" "$M/t" >/dev/null
$PY "$LIB/tree.py" compare "$T/expected/model" "$M/t" --loose-root || fail "another daemon shows another tree"
ifs umount "$M/t"
mkdir "$T/shared"
ORAS=$REGISTRY/artifacts/oras:1
ifs export-store -q --plain-http "$T/shared" "$ORAS" >/dev/null
refuse 1 "is a tar whose digest its artifact does not state" ifs export-store -q --plain-http "$T/shared" "$REF"
(ROOT=$T/other RUN=$T/other-run
 ifs import -q "$T/shared" "$ORAS" >/dev/null
 ifs mount -q --pull never "$ORAS" "$M/t" >/dev/null
 $PY "$LIB/tree.py" compare "$T/expected/oras" "$M/t" --loose-root || fail "a shared store shows another tree"
 ifs umount "$M/t"; ifs stop)
# A store whose record says of other bytes that they are the layer is not believed.
layer=$(grep -l "blob tar" "$T"/shared/layers/*/layer.json)
$PY - "$layer" <<'PY2'
import hashlib, json, sys
record = json.load(open(sys.argv[1]))
data = bytearray(open(sys.argv[1][:-10] + "data", "rb").read())
data[600] ^= 1
open(sys.argv[1][:-10] + "data", "wb").write(data)
record["form"]["content"] = "sha256:" + hashlib.sha256(data[:record["tar_bytes"]]).hexdigest()
json.dump(record, open(sys.argv[1], "w"))
PY2
(ROOT=$T/third RUN=$T/third-run
 refuse '1|3|4' 'layer' ifs import -q "$T/shared" "$ORAS"
 ifs stop)
ifs check >/dev/null || fail "check: $(ifs check)"
big=$(find "$ROOT/layers" -name data -size +2M -print -quit)
printf X | dd of="$big" bs=1 seek=1000 conv=notrunc status=none
index=$(find "$ROOT/layers" -name index ! -path "$(dirname "$big")/*" -print -quit)
printf X | dd of="$index" bs=1 seek=1500 conv=notrunc status=none
(set +e; ifs check --repair >"$T/checked"; [ $? = 3 ]) || fail "damage was not found: $(cat "$T/checked")"
ifs check >/dev/null || fail "after the repair: $(cat "$T/checked"; ifs check)"
ifs mount -q --pull never "$REF" "$M/t" >/dev/null
$PY "$LIB/tree.py" compare "$T/expected/model" "$M/t" --loose-root || fail "the repaired layers show another tree"
ifs umount "$M/t"

# Hostile artifacts: each is refused in one line, and nothing is mounted.
$PY - "$LIB" "$T/images" <<'PY'
import sys
sys.path.insert(0, sys.argv[1])
from artifacts import *
raw = "application/vnd.cncf.model.weight.v1.raw"
meta = MODEL + "file.metadata+json"
def hostile(name, *blobs):
    a = Artifact(f"{sys.argv[2]}/{name}", None, "application/vnd.example")
    for content, annotations in blobs:
        a.add(content, raw, annotations)
    a.write()
hostile("absolute", (b"x", {TITLE: "/etc/passwd"}))
hostile("dotdot", (b"x", {MODEL + "filepath": "a/../../etc/passwd"}))
hostile("nul", (b"x", {TITLE: "a\0b"}))
hostile("long", (b"x", {TITLE: "a" * 300}))
hostile("whiteout", (b"x", {TITLE: ".wh.a"}))
hostile("twice", (b"x", {TITLE: "a"}), (b"y", {TITLE: "a"}))
hostile("below", (b"x", {TITLE: "a"}), (b"y", {TITLE: "a/b"}))
hostile("size", (b"x", {TITLE: "a", meta: '{"size": 100}'}))
hostile("json", (b"x", {TITLE: "a", meta: '{"size": '}))
hostile("nothing")
a = Artifact(sys.argv[2] + "/lie", None, "application/vnd.example")
a.add(gzipped(Tar().file("a", b"x").bytes()), LAYER_GZIP,
      {TITLE: "a", "io.deis.oras.content.unpack": "true", "io.deis.oras.content.digest": sha256(b"other")})
a.write()
a = Artifact(sys.argv[2] + "/short", None, "application/vnd.example")
a.add(b"x" * 1000, raw, {TITLE: "a"})
a.blobs[0]["size"] = 2000
a.write()
PY
while read -r status name regex; do
  refuse "$status" "$regex" ifs mount -q "oci:$T/images/$name" "$M/t"
done <<'END'
1 absolute blob 1 of the artifact: the path "/etc/passwd" is absolute
1 dotdot contains "\.\."
1 nul contains NUL
1 long longer than 255 bytes
1 whiteout deleted file
1 twice two blobs of the artifact have the path "a"
1 below "a" is a file of the artifact and a directory
1 size another size than the 1 bytes
1 json not a JSON object
1 nothing no files to mount
3 lie instead of the expected
3|1 short blob
END
$PY - "$LIB" "$T/images/modes" <<'PY'
import sys
sys.path.insert(0, sys.argv[1])
from artifacts import *
a = Artifact(sys.argv[2], None, "application/vnd.example")
a.add(b"x", "text/plain", {TITLE: "a", MODEL + "file.metadata+json": '{"mode": 4095}'})
a.write()
PY
ifs mount -q "oci:$T/images/modes" "$M/t" >/dev/null
same "the mode without privileges" 777 "$(stat -c %a "$M/t/a")"
ifs umount "$M/t"
ifs stop
nothing_left "$M"
