#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A zstd frame of a few bytes may ask for a window of 512 MiB. Three images that do so at once, of two registries' worth
# of layers, do not take three times as much memory, all are read right, and an image with small windows goes on.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse
$PY - "$LIB" "$T/images" <<'P'
import struct, sys
sys.path.insert(0, sys.argv[1])
from oci import *
MIB = 1 << 20
def frame(tar_head, zeros, log):
    """A frame by hand: a raw block, then blocks of one repeated byte (RFC 8878, 3.1.1.2)."""
    def block(kind, size, data, last=0):
        return struct.pack("<I", size << 3 | kind << 1 | last)[:3] + data
    out = b"\x28\xb5\x2f\xfd\0" + bytes([(log - 10) << 3]) + block(0, len(tar_head), tar_head)
    pieces = [128 << 10] * (zeros // (128 << 10))
    return out + b"".join(block(1, n, b"\0", i + 1 == len(pieces)) for i, n in enumerate(pieces))
def image(name, mib, log):
    head = Tar()
    head.header(name.encode(), b"0", size=mib * MIB)
    zeros = (mib + 1) * MIB  # the end of the archive as well
    sha = hashlib.sha256(bytes(head.out))
    for _ in range(mib + 1):
        sha.update(bytes(MIB))
    simple_image(f"{sys.argv[2]}/{name}", [Layer(bytes(head.out), LAYER_ZSTD, frame(bytes(head.out), zeros, log),
                                                 "sha256:" + sha.hexdigest())])
for name in ("one", "two", "three"):
    image(name, 560, 29)
image("small", 16, 23)
image("huge", 1, 30)
P
ifs mount -q "oci:$T/images/small" "$M" >/dev/null
pids=()
for name in one two three; do
  ifs pull -q "oci:$T/images/$name" >/dev/null &
  pids+=($!)
done
same "an image with small windows meanwhile" $((16 << 20)) "$(stat -c %s "$M/small")"
for pid in "${pids[@]}"; do wait "$pid" || fail "an image was refused"; done
high=$(awk '/VmHWM/ {print $2}' "/proc/$(daemons)/status")
echo "the daemon had at most $((high / 1024)) MiB"
[ "$high" -le $((1024 * 1024)) ] || fail "more than one window and what else there is"
refuse 1 'asks for a window of 1024 MiB.*--long=29' ifs pull -q "oci:$T/images/huge"
