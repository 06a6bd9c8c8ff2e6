#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Layers that become far more than they are: each is refused in one line before the disk is full, leaves nothing
# behind, and disturbs no other image.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse; need zstd
size=256  # MiB; a twentieth is kept
mkdir "$T/small" "$M/honest" "$M/other"
mount -t tmpfs -o size=${size}m tmpfs "$T/small"
ROOT=$T/small/root
image plain names
ifs mount -q "oci:$T/images/plain" "$M/honest" >/dev/null

# What a bomb unpacks to is not what its DiffID says: it has to end before that is known.
$PY - "$LIB" "$T/images" <<'PY'
import gzip, subprocess, sys
sys.path.insert(0, sys.argv[1])
from oci import *
MIB = 1 << 20
def head(size):
    info = tarfile.TarInfo("bomb")
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)
def bomb(name, media, blob):
    simple_image(f"{sys.argv[2]}/{name}", [Layer(Tar(), media=media, blob=blob, diff_id="sha256:" + "1" * 64)])
zstd = lambda data: subprocess.run(["zstd", "-q", "-c", "-19"], input=data, stdout=subprocess.PIPE, check=True).stdout
zeros, text = bytes(64 * MIB), b"all work and no play makes jack a dull boy\n" * (64 * MIB // 43)
bomb("gzip", LAYER_GZIP, gzipped(head(1 << 30)) + gzipped(zeros, 9) * 16)
bomb("text", LAYER_GZIP, gzipped(head(1 << 30)) + gzipped(text, 9) * 16)
bomb("zstd", LAYER_ZSTD, zstd(head(10 << 30)) + zstd(zeros) * 160)
# Small members, so that no single step is large.
bomb("members", LAYER_GZIP, gzipped(head(1 << 30)) + gzipped(zeros[:MIB // 2], 9) * 2048)
# It says that it is a plain tar.
bomb("disguised", LAYER, gzipped(head(1 << 30)) + gzipped(zeros, 9) * 16)
# One byte of each mebibyte of a sparse file: each takes a block of the disk.
sparse = Tar().sparse_pax("sparse", 64 << 30, [(k * MIB, b"x") for k in range(65000)], "1.0")
simple_image(f"{sys.argv[2]}/sparse", [Layer(sparse)])
PY

used() { df --output=used -k "$T/small" | tail -1 | tr -d ' '; }
before=$(used)
limit=$((size * 1024 * 95 / 100 + 1024))  # the kernel is not asked at each write
worst=0
for bomb in gzip text zstd members disguised sparse; do
  : >"$T/high"
  (while [ -e "$T/high" ]; do used; sleep 0.005; done) >"$T/marks" &
  sampler=$!
  refuse 10 'of free space left.*kept for everybody else' ifs pull -q "oci:$T/images/$bomb"
  rm "$T/high"
  wait $sampler
  mark=$(sort -n "$T/marks" | tail -1)
  [ "$mark" -le $limit ] || fail "$bomb: $mark KiB of $((size * 1024)) were in use"
  [ "$mark" -le $worst ] || worst=$mark
  nothing_left "$M/other"
  wait_for 10 "[ \$(used) -le $((before + 1024)) ]" || fail "$bomb: $(used) KiB are in use, $before before"
  same "the mount meanwhile" "root:x:0:0::/:/bin/sh" "$(head -1 "$M/honest/etc/passwd")"
done
echo "at most $worst KiB of $((size * 1024)) were in use"

# All at once, and an honest image in the middle of it.
for bomb in gzip text zstd members disguised sparse; do
  ifs pull -q "oci:$T/images/$bomb" >/dev/null 2>"$T/$bomb.err" &
  TEST_PIDS+=($!)
done
ifs mount -q "oci:$T/images/names" "$M/other" >/dev/null
for bomb in "${TEST_PIDS[@]}"; do ! wait "$bomb" || fail "a bomb was taken"; done
for bomb in gzip text zstd members disguised sparse; do
  grep -qE 'free space|No space left' "$T/$bomb.err" || { cat "$T/$bomb.err"; fail "$bomb: not refused for the space"; }
done
ifs umount --all
nothing_left "$M"

# 60 KB that become twelve million directories: refused before they have taken the memory.
$PY - "$LIB" "$T/images" <<'PY'
import sys
sys.path.insert(0, sys.argv[1])
from oci import *
t = Tar()
for k in range(400):
    t.file(f"{k}/" + "a/" * 30000 + "f", b"")
simple_image(f"{sys.argv[2]}/names-bomb", [Layer(t, blob=gzipped(t.bytes(), 9))])
PY
refuse 1 'names and attributes' ifs pull -q "oci:$T/images/names-bomb"
peak=$(awk '/^VmHWM/ { print int($2 / 1024) }' "/proc/$(ifs status --json | field 'j["pid"]')/status")
echo "the daemon took $peak MiB at most"
[ "$peak" -lt 1024 ] || fail "the daemon took $peak MiB"

# A layer of zeros that fits is a layer like any other.
$PY - "$LIB" "$T/images" <<'PY'
import sys
sys.path.insert(0, sys.argv[1])
from oci import *
simple_image(f"{sys.argv[2]}/zeros", [Layer(t, blob=gzipped(t.bytes(), 9)) for t in [Tar().file("zeros", bytes(100 << 20))]])
PY
ifs mount -q "oci:$T/images/zeros" "$M/other" >/dev/null
same "bytes" $((100 << 20)) "$(stat -c %s "$M/other/zeros")"
ifs umount --all
ifs stop
