#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Uncompressed layers without any index: mounted by their headers with few bytes, read in parts, hashed when they are whole;
# a kill of the daemon in the middle; small files, a registry without ranges and `deny` leave the pass; a wrong byte is
# found when the layer is whole, and read right from then on; the index that is published afterwards has digests.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_root; need_fuse
start_registry registry
start_proxy proxy
# 20 files in 300 MB: zeros but for a line at each MiB, which says where it is; and 3000 small files.
$PY - "$LIB" "$T/images" <<'PY'
import sys
sys.path.insert(0, sys.argv[1])
from oci import *
def marked(name, size):
    data = bytearray(size)
    for at in range(0, size, 1 << 20):
        line = b"%s at %d\n" % (name.encode(), at)
        data[at:at + len(line)] = line
    return bytes(data)
model = Tar().dir("model").file("model/config.json", "{}")
for i in range(20):
    model.file(f"model/part-{i:02}", marked(f"part {i}", 15 << 20))
model.symlink("model/latest", "part-19")
small = Tar().dir("small")
for i in range(3000):
    small.file(f"small/{i}", b"%d" % i * 400)
simple_image(sys.argv[2] + "/model", [Layer(model, media=LAYER)])
simple_image(sys.argv[2] + "/small", [Layer(small, media=LAYER)])
PY
push "$T/images/model" test/model:1
push "$T/images/small" test/small:1
ref=$PROXY/test/model:1
blob=$(layer_of model 0)
mkdir -p "$M"/{lazy,kernel,fuse,second,deny,pinned,small,wrong,again,published,norange,eager}
bytes_of_blobs() { requests bytes "sha256:$blob"; }
forget() { : >"$REQUESTS"; : >"$BEGAN"; }
says() {  # says DIR FILE MIB: the line at that MiB of the file
  local line
  line=$(dd if="$1/model/part-$2" bs=64 count=1 skip=$(($3 << 14)) status=none | head -1)
  same "$1: part $2 at $3 MiB" "part $((10#$2)) at $(($3 << 20))" "$line"
}
part_sum=$($PY - <<'PY'
import hashlib
data = bytearray(15 << 20)
for at in range(0, len(data), 1 << 20):
    line = b"part 7 at %d\n" % at
    data[at:at + len(line)] = line
print(hashlib.sha256(data).hexdigest())
PY
)

# Mounted with few bytes, by few requests, in every presentation.
for mode in $(modes); do
  store "$mode"
  forget
  ifs mount -q --mode "$mode" "$ref" "$M/$mode" >/dev/null
  same "$mode: state" filling "$(states "$M/$mode")"
  [ "$(bytes_of_blobs)" -lt 102400 ] || fail "$mode: $(bytes_of_blobs) bytes for the mount"
  asked=$(grep -c "GET .*$blob" "$BEGAN")
  [ "$asked" -le 24 ] || fail "$mode: $asked requests for the mount"
  same "$mode: files" 22 "$(ls "$M/$mode/model" | wc -l)"
  same "$mode: size" $((15 << 20)) "$(stat -c %s "$M/$mode/model/part-13")"
  forget
  says "$M/$mode" 13 9
  [ "$(grep -c "GET .*$blob" "$BEGAN")" -le 3 ] || fail "$mode: $(grep -c "GET .*$blob" "$BEGAN") requests for a page"
  [ "$(bytes_of_blobs)" -le $((2 << 20)) ] || fail "$mode: $(bytes_of_blobs) bytes for a page"
  same "$mode: a file" "$part_sum" "$(sha256sum <"$M/$mode/model/part-07" | cut -d' ' -f1)"
  same "$mode: source" unverified "$(ifs inspect --json "$PROXY/test/model:1" | field 'j["layers"][0]["source"]')"
done

# A daemon that is killed in the middle: the next one goes on.
slay "$(daemons_of "$RUN")"
ifs mount -q "$ref" "$M/second" >/dev/null
says "$M/second" 03 2
ifs pull -q --wait "$M/second" >/dev/null
wait_for 60 '[ "$(states "$M/second")" = complete ]' || fail "$(state "$M/second")"
same "whole" "$part_sum" "$(sha256sum <"$M/second/model/part-07" | cut -d' ' -f1)"
same "the data is the blob" "" "$(find "$ROOT/layers" -name blob)"
ifs umount --all; ifs stop

# With `deny`, and for an image that is named by its digest, it is shown when it is whole.
configure '[fill]' 'background = false' 'unverified = "deny"'
store deny
ifs mount -q "$ref" "$M/deny" >/dev/null
same "denied" 0 "$(counter layers_lazy)"
says "$M/deny" 01 1
same "scans" 0 "$(counter stored_layers_scanned)"
ifs umount --all; ifs stop
configure '[fill]' 'background = false'
store pinned
ifs mount -q "$PROXY/test/model@$(manifest_of model)" "$M/pinned" >/dev/null
same "named by its digest" 0 "$(counter layers_lazy)"
says "$M/pinned" 02 1
ifs umount --all
ifs mount -q --eager "$ref" "$M/eager" >/dev/null
same "eager" 0 "$(counter layers_lazy)"
ifs umount --all; ifs stop

# Many small files: given up early.
store small
ifs mount -q "$PROXY/test/small:1" "$M/small" >/dev/null
same "small files" 0 "$(counter layers_lazy)"
same "a small file" 299929992999 "$(head -c 12 "$M/small/small/2999")"
same "given up" 1 "$(counter stored_scans_given_up)"
ifs umount --all; ifs stop

# A registry that sends whole blobs only.
start_odd_registry "$T/images/model"
store norange
ifs mount -q "$ODD_REGISTRY/any/norange:1" "$M/norange" >/dev/null
same "no ranges" 0 "$(counter layers_lazy)"
same "given up" 1 "$(counter stored_scans_given_up)"
says "$M/norange" 05 1
ifs umount --all; ifs stop

# A byte that is changed on its way is read as it came, and found when the layer is whole.
store wrong
ifs mount -q "$ref" "$M/wrong" >/dev/null
rules "[{\"path\": \"$blob\", \"corrupt\": 100000, \"times\": 1}]"
cat "$M/wrong/model/part-11" >/dev/null
rules '[]'
! ifs pull -q --wait "$M/wrong" >/dev/null 2>"$T/err" || fail "the lie is not found"
grep -q 'other bytes than those of the blob' "$T/err" || fail "$(cat "$T/err")"
wait_for 20 '[ "$(states "$M/wrong")" = damaged ]' || fail "$(state "$M/wrong")"
reads_fail "$M/wrong/model/part-02"
ifs mount -q "$ref" "$M/again" >/dev/null
same "read as a whole from now on" 1 "$(counter layers_lazy)"
same "right" "$part_sum" "$(sha256sum <"$M/again/model/part-07" | cut -d' ' -f1)"
ifs umount --all; ifs stop

# Published, it has digests, and the next machine needs no scan.
publish model
store published
ifs mount -q "$REGISTRY/test/model:1" "$M/published" >/dev/null
same "published" beside "$(ifs inspect --json "$REGISTRY/test/model:1" | field 'j["layers"][0]["source"]')"
same "no scan" 0 "$(counter stored_layers_scanned)"
says "$M/published" 18 14
ifs umount --all; ifs stop
