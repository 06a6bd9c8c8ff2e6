#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Artifacts whose blobs are files or uncompressed tars: mounted by a request for each blob, read in parts, hashed when they
# are whole; a kill of the daemon in the middle; a tar that is compressed although its type says otherwise, `deny`, `--eager`
# and a registry without ranges leave the pass; a wrong byte is found; the same blob under two names; many blobs.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_root; need_fuse; need zstd
start_registry registry
start_proxy proxy
# A line at each MiB of a file says where it is.
$PY - "$LIB" "$T/images" "$T/expected" <<'PY'
import sys
sys.path.insert(0, sys.argv[1])
from artifacts import *
images, expected = sys.argv[2:]
MODEL_TYPE = "application/vnd.cncf.model.manifest.v1+json"

def marked(name, mib):
    data = bytearray(mib << 20)
    for at in range(0, len(data), 1 << 20):
        line = b"%s at %d\n" % (name.encode(), at)
        data[at:at + len(line)] = line
    return bytes(data)

a = Artifact(images + "/model", expected + "/model", MODEL_TYPE)
a.model_file("model-00001.safetensors", marked("one", 40), mode=0o640, uid=1000, mtime=(1700000000, 5))
a.model_tar({"model-00002.safetensors": marked("two", 40), "notes/two": b"2"}, "weight", ".tar")
a.model_file("tokenizer.json", b'{"a": 1}\n' * 700, kind="weight.config")
a.model_tar({"LICENSE": b"free\n"}, "doc", ".tar+gzip")
a.write(config_type="application/vnd.cncf.model.config.v1+json", config={"descriptor": {"name": "m"}})

a = Artifact(images + "/twice", expected + "/twice", "application/vnd.example")
same = marked("same", 8)
a.title("first/weights", same, "application/octet-stream")
a.title("second/weights", same, "application/octet-stream")
a.write()

# What is said to be a tar, and is compressed.
a = Artifact(images + "/false", expected + "/false", MODEL_TYPE)
noise = os.urandom(6 << 20)
tar = Tar().file("noise", noise).bytes()
a.add(gzipped(tar), "application/vnd.cncf.model.weight.v1.tar", {MODEL + "filepath": "noise"})
a.expect("noise", noise, mtime=(T0, 0))
a.write()

a = Artifact(images + "/many", expected + "/many", "application/vnd.example")
for i in range(80):
    a.title(f"shard-{i:02}", marked(f"shard {i}", 4), "application/octet-stream")
a.write()
PY
for name in model twice false many; do push "$T/images/$name" "test/$name:1"; done
ref=$PROXY/test/model:1
first=$(layer_of model 0) second=$(layer_of model 1)
mkdir -p "$M"/{kernel,fuse,killed,deny,eager,norange,wrong,again,twice,false,many,image}
bytes_of_blobs() { requests bytes "sha256:$first" "sha256:$second"; }
forget() { : >"$REQUESTS"; : >"$BEGAN"; }
says() {  # says FILE NAME MIB: the line at that MiB
  same "$1 at $3 MiB" "$2 at $(($3 << 20))" \
    "$(dd if="$1" bs=64 count=1 skip=$(($3 << 14)) status=none | head -1)"
}
shows() { $PY "$LIB/tree.py" compare "$T/expected/$1" "$2" --loose-root || fail "$2 is another tree than $1"; }

# Mounted with few bytes, in every presentation; then read as a whole.
for mode in $(modes); do
  store "$mode"
  forget
  ifs mount -q --mode "$mode" "$ref" "$M/$mode" >/dev/null
  [ "$(bytes_of_blobs)" -lt 102400 ] || fail "$mode: $(bytes_of_blobs) bytes for the mount"
  same "$mode: a file's blob is asked for once" 1 "$(grep -c "GET .*$first" "$BEGAN")"
  same "$mode: lazy" 2 "$(counter layers_lazy)"
  same "$mode: size" $((40 << 20)) "$(stat -c %s "$M/$mode/model-00002.safetensors")"
  forget
  says "$M/$mode/model-00001.safetensors" one 23
  says "$M/$mode/model-00002.safetensors" two 31
  for blob in "$first" "$second"; do
    [ "$(grep -c "GET .*$blob" "$BEGAN")" -le 3 ] || fail "$mode: $(grep -c "GET .*$blob" "$BEGAN") requests for a page"
  done
  [ "$(bytes_of_blobs)" -le $((4 << 20)) ] || fail "$mode: $(bytes_of_blobs) bytes for two pages"
  same "$mode: sources" "proven unverified" \
    "$(ifs inspect --json "$ref" | field '" ".join(sorted({l["source"] for l in j["layers"]}))')"
  shows model "$M/$mode"
done

# A daemon that is killed in the middle: the next one goes on, and everything is hashed in the end.
store killed
ifs mount -q "$ref" "$M/killed" >/dev/null
dd if="$M/killed/model-00001.safetensors" bs=1M count=20 status=none >"$T/part"
slay "$(daemons_of "$RUN")"
forget
ifs mount -q "$ref" "$M/again" >/dev/null
dd if="$M/again/model-00001.safetensors" bs=1M count=20 status=none | cmp - "$T/part" || fail "other bytes after the kill"
[ "$(bytes_of_blobs)" -lt $((8 << 20)) ] || fail "$(bytes_of_blobs) bytes were fetched again"
ifs pull -q --wait "$M/again" >/dev/null
wait_for 60 '[ "$(states "$M/again")" = complete ]' || fail "$(state "$M/again")"
shows model "$M/again"
same "the data is the blob" "" "$(find "$ROOT/layers" -name blob)"
ifs check >/dev/null || fail "check: $(ifs check)"
ifs umount --all
# Proven, it is also for those who trust nobody, and needs no registry.
ifs mount -q --eager --pull never "$ref" "$M/eager" >/dev/null
shows model "$M/eager"
ifs export "$ref" | tar -tf - | grep -x "notes/two" >/dev/null || fail "export lacks a file"
ifs umount --all; ifs stop

# With `deny`, and `--eager`, it is shown when it is whole.
configure '[fill]' 'background = false' 'unverified = "deny"'
store deny
ifs mount -q "$ref" "$M/deny" >/dev/null
same "denied" "0 0" "$(counter layers_lazy) $(counter stored_layers_scanned)"
shows model "$M/deny"
ifs umount --all; ifs stop
configure '[fill]' 'background = false'
store eager
ifs mount -q --eager "$ref" "$M/eager" >/dev/null
same "eager" 0 "$(counter layers_lazy)"
ifs umount --all; ifs stop

# A registry that sends whole blobs only.
start_odd_registry "$T/images/model"
store norange
ifs mount -q "$ODD_REGISTRY/any/norange:1" "$M/norange" >/dev/null
same "no ranges" "0 2" "$(counter layers_lazy) $(counter stored_scans_given_up)"
shows model "$M/norange"
ifs umount --all; ifs stop

# A byte that is changed on its way is read as it came, and found when the layer is whole.
store wrong
ifs mount -q "$ref" "$M/wrong" >/dev/null
rules "[{\"path\": \"$first\", \"corrupt\": 100000, \"times\": 1}]"
dd if="$M/wrong/model-00001.safetensors" of=/dev/null bs=1M count=1 status=none
rules '[]'
! ifs pull -q --wait "$M/wrong" >/dev/null 2>"$T/err" || fail "the lie is not found"
grep -q 'other bytes than those of the blob' "$T/err" || fail "$(cat "$T/err")"
wait_for 20 '[[ "$(states "$M/wrong")" = *damaged* ]]' || fail "$(state "$M/wrong")"
reads_fail "$M/wrong/model-00001.safetensors"
ifs umount "$M/wrong"
ifs mount -q "$ref" "$M/wrong" >/dev/null
shows model "$M/wrong"
ifs umount --all; ifs stop

# The same bytes under two names, and bytes of another kind than is said.
store others
ifs mount -q "$PROXY/test/twice:1" "$M/twice" >/dev/null
same "two names" 2 "$(counter layers_lazy)"
says "$M/twice/second/weights" same 6
shows twice "$M/twice"
ifs mount -q "$PROXY/test/false:1" "$M/false" >/dev/null
same "given up" 1 "$(counter stored_scans_given_up)"
shows false "$M/false"
ifs mount -q "$PROXY/test/many:1" "$M/many" >/dev/null
same "all of many" 82 "$(counter layers_lazy)"
says "$M/many/shard-79" "shard 79" 3
ifs umount --all; ifs stop
