#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A large layer that is fetched as a whole is decompressed by the spans of a published index: by pull, by mount --eager, and
# where the index is not trusted; each byte of its blob is fetched once. An index that lies costs a pass, and no wrong byte.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_root; need_fuse
start_registry registry
start_shaper line
$PY - "$LIB" "$T/images/big" <<'EOF'
import random, sys
sys.path.insert(0, sys.argv[1])
from oci import *
rng = random.Random(155)
def noise(size):  # a quarter of it is a copy of what lies up to 16 KiB before it, so that spans need their windows
    out = bytearray()
    while len(out) < size:
        piece = rng.randbytes(12 << 10)
        out += piece + piece[:4 << 10]
    return bytes(out[:size])
big = Tar().dir("usr").dir("usr/lib")
for i in range(25):
    big.file(f"usr/lib/library{i:02}", noise(4 << 20))
small = Tar().dir("etc").file("etc/small", noise(1 << 20))
layers = [Layer(t.bytes(), LAYER_GZIP, gzip.compress(t.bytes(), 1, mtime=0)) for t in (big, small)]  # the tool `lie` lies about the first one
assert len(layers[0].blob) > 64 << 20, len(layers[0].blob)
simple_image(sys.argv[2], layers)
EOF
push "$T/images/big" test/big:1
ref=$SHAPED/test/big:1
subject=$(manifest_of big)
truth big "$T/truth"
publish big
# It does so on this machine, however many processors that has.
on() { configure '[fill]' 'background = false' '[index]' 'least_processors = 1' "$@"; }
begin() { store "$1"; mkdir -p "$M/$1"; forget_requests; }  # begin NAME: an empty store
end() { ifs umount --all; ifs stop; }
right() {  # right DIR PARALLEL USELESS: all of it is right, and proven; so many layers were made that way, or tried
  lazy readers "$T/truth" "$1" --readers 2 >/dev/null || fail "$1: wrong bytes"
  same "$1: states" complete "$(states "$1" | sed 's/written/complete/')"
  same "$1: source" proven "$(ifs inspect --json "$ref" | field 'j["layers"][0]["source"]')"
  same "$1: by its table" "$2" "$(counter layers_parallel)"
  same "$1: in vain" "$3" "$(counter layers_table_useless)"
  same "$1: lazy" 0 "$(counter layers_lazy)"
  lazy once "$SHAPER/requests" "$T/images/big" || fail "$1: bytes of a layer were sent twice"
}
index_asked() { grep -c '\.imagefs' "$SHAPER/requests" || true; }

on
begin pulled
ifs pull -q "$ref" >/dev/null
ifs mount -q --eager "$ref" "$M/pulled" >/dev/null
right "$M/pulled" 1 0
same "layers that were made" 2 "$(counter layers_built)"
end

for mode in $(modes); do
  begin "eager-$mode"
  ifs mount -q --eager --mode "$mode" "$ref" "$M/eager-$mode" >/dev/null
  right "$M/eager-$mode" 1 0
  end
done

# Nobody vouches for this index, so the image is not lazy, but its table is a hint.
on 'trust = "configured"'
begin untrusted
ifs mount -q "$ref" "$M/untrusted" >/dev/null
right "$M/untrusted" 1 0
end

# Nobody is asked where it would not pay, or is not wanted.
configure '[fill]' 'background = false' '[index]' 'least_processors = 0'
begin off
ifs mount -q --eager "$ref" "$M/off" >/dev/null
right "$M/off" 0 0
same "searches for an index" 0 "$(index_asked)"
end
configure '[fill]' 'background = false'
begin two
taskset -c "$(taskset -pc $$ | sed 's/.*: //; s/[-,].*//')" \
  timeout -k 5 120 "$IMAGEFS" --root "$ROOT" --run "$RUN" mount -q --eager "$ref" "$M/two" >/dev/null
right "$M/two" 0 0
same "searches for an index on one processor" 0 "$(index_asked)"
end

# Spans that begin elsewhere, windows that nobody has: the layer is made without the table, and the log says why once.
on
for how in places absent; do
  publish big
  lazy lie "$REGISTRY/test/big" "$subject" "$how"
  begin "$how"
  ifs mount -q --eager "$ref" "$M/$how" >/dev/null
  right "$M/$how" 0 1
  same "$how: lines" 1 "$(grep -c 'layer.table_useless' "$RUN/daemon.log")"
  end
done
# A table that lied is not tried again by this daemon.
publish big
lazy lie "$REGISTRY/test/big" "$subject" places
begin again
ifs pull -q "$ref" >/dev/null
same "in vain" 1 "$(counter layers_table_useless)"
ifs rm "$ref" >/dev/null
ifs mount -q --eager "$ref" "$M/again" >/dev/null
same "made" 4 "$(counter layers_built)"
same "in vain, afterwards" 1 "$(counter layers_table_useless)"
lazy readers "$T/truth" "$M/again" --readers 2 >/dev/null || fail "wrong bytes"
end

# An interrupted pull ends at once, and the next one goes on where it stopped.
publish big
begin cut
shape set rate=8MB >/dev/null
setsid "$IMAGEFS" --root "$ROOT" --run "$RUN" pull -q "$ref" >"$T/cut.out" 2>&1 &
pulling=$!
wait_for 60 '[ "$(sent big)" -gt 20000000 ]' || fail "nothing came"
kill -INT "$pulling"
status=0
wait "$pulling" || status=$?
same "status after Ctrl-C" 130 "$status"
wait_for 10 "[ \$(flights 'f[\"active\"] + f[\"waiting\"]') = 0 ]" || fail "the download goes on for nobody"
shape set rate=0 >/dev/null
ifs mount --eager "$ref" "$M/cut" >"$T/out" 2>"$T/err"
grep -qiE 'download|unpack' "$T/err" || { cat "$T/err"; fail "no word of what it does"; }
lazy readers "$T/truth" "$M/cut" --readers 2 >/dev/null || fail "wrong bytes"
same "by its table" 1 "$(counter layers_parallel)"
end
