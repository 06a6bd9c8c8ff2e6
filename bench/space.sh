#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What the verbs about space cost (docs/benchmarks.md): space.sh [IMAGES [GIB]], as root. `df` and `images` with that many
# images; then an eviction of layers of that size, while a reader measures how long each of its reads takes.
SPACE_ARGS=${SPACE_ARGS:-$*}
export SPACE_ARGS
. "$(dirname "$0")/../tests/lib/lib.sh"
need_root; need_fuse
read -r images gib _ <<<"$SPACE_ARGS 1000 10"
ms() { $PY -c 'import subprocess, sys, time
best = []
for _ in range(5):
    begin = time.monotonic()
    subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL)
    best.append(time.monotonic() - begin)
print(f"{sorted(best)[2] * 1000:.0f}")' "$IMAGEFS" --root "$ROOT" --run "$RUN" "$@"; }
$PY - "$LIB" "$T/images" "$images" <<'PY'
import sys
sys.path.insert(0, sys.argv[1])
from oci import *
for n in range(int(sys.argv[3])):
    base, own = Tar().dir("base").file("base/f", b"base"), Tar().dir("own").file("own/f", b"%d" % n * 1000)
    simple_image(f"{sys.argv[2]}/{n}", [Layer(base), Layer(own)])
PY
for n in $(seq 0 $((images - 1))); do ifs pull -q "oci:$T/images/$n" >/dev/null; done
echo "images: $(ifs images --json | field 'len(j)'), layers: $(ifs status --json | field 'len(j["layers"])')"
echo "ls: $(ms ls) ms; df: $(ms df) ms; images: $(ms images) ms; prune --dry-run: $(ms prune --dry-run) ms"

rm -rf "$T/images"
$PY - "$LIB" "$T/big" "$gib" <<'PY'
import os, sys
sys.path.insert(0, sys.argv[1])
from oci import *
layers = []
for n in range(int(sys.argv[3])):
    layers.append(Layer(Tar().dir(f"d{n}").file(f"d{n}/data", os.urandom(1 << 20) * 1023 + os.urandom(1 << 20))))
simple_image(sys.argv[2], layers)
PY
mkdir "$M/small"
big_image small s=8
ifs mount -q --mode fuse "oci:$T/images/small" "$M/small" >/dev/null
ifs pull -q "oci:$T/big" >/dev/null
wait_for 300 '[ "$(ifs status --json | field "j[\"counters\"][\"span_tables_built\"]")" -ge '"$gib"' ]' || echo "span tables: $(ifs status --json | field 'j["counters"]["span_tables_built"]')"
$PY - "$M/small/s/bytes" "$T/stop" >"$T/longest" <<'PY' & reader=$!
import os, random, sys, time
longest, reads, fd = 0, 0, os.open(sys.argv[1], os.O_RDONLY)
size = os.fstat(fd).st_size
while not os.path.exists(sys.argv[2]):
    begin = time.monotonic()
    os.pread(fd, 65536, random.randrange(size - 65536))
    longest, reads = max(longest, time.monotonic() - begin), reads + 1
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
print(f"{longest * 1000:.1f} ms is the longest of {reads} reads")
PY
sleep 1
begin=${EPOCHREALTIME/./}
freed=$(ifs evict --json "oci:$T/big" | field 'j["freed_bytes"]')
echo "evict: $freed bytes in $(((${EPOCHREALTIME/./} - begin) / 1000)) ms"
touch "$T/stop"; wait $reader; cat "$T/longest"
