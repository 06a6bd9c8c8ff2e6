#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# alone
# A million files in one directory, and a tree a thousand directories deep, in both presentations.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse
$PY - "$LIB" "$T/images" <<'PY'
import sys
sys.path.insert(0, sys.argv[1])
from oci import *

# A million headers by hand: the writer of the other tests would take a minute.
one = bytearray(Tar().file("flat/0000000", b"").out[:512])
digits, sums = slice(5, 12), slice(148, 156)
one[sums] = b" " * 8
base = sum(one) - sum(one[digits])
blocks = [bytes(Tar().dir("flat").out[:512])]
for i in range(1_000_000):
    name = b"%07d" % i
    one[digits] = name
    one[sums] = b"%06o\0 " % (base + sum(name))
    blocks.append(bytes(one))
    one[sums] = b" " * 8
flat = b"".join(blocks) + bytes(1024)
deep = Tar()
path = ""
for i in range(1000):
    path += "d/"
    deep.dir(path[:-1])
deep.file(path + "bottom", b"the bottom\n")
simple_image(sys.argv[2] + "/large", [Layer(flat, blob=flat), Layer(deep)])
PY
mkdir "$M/large"
for mode in $(modes); do
  ifs mount -q --mode "$mode" "oci:$T/images/large" "$M/large" >/dev/null
  $PY - "$M/large" <<'PY' || fail "$mode"
import os, sys
top = sys.argv[1]
names = sorted(os.listdir(top + "/flat"))
assert len(names) == 1_000_000 and names[0] == "0000000" and names[-1] == "0999999", len(names)
assert names == sorted(set(names))
for i in range(0, 1_000_000, 9973):
    assert os.stat(f"{top}/flat/{i:07}").st_size == 0
for absent in ("1000000", "-", "00000000"):
    assert not os.path.lexists(f"{top}/flat/{absent}")
# No path is that long: one directory at a time.
fd = os.open(top, os.O_PATH)
for _ in range(1000):
    down = os.open("d", os.O_PATH | os.O_NOFOLLOW, dir_fd=fd)
    os.close(fd)
    fd = down
assert os.read(os.open("bottom", os.O_RDONLY, dir_fd=fd), 100) == b"the bottom\n"
PY
  rss=$(ifs status --json | field 'j["rss_bytes"] >> 20')
  echo "$mode: daemon after a million names were listed: $rss MiB"
  ifs umount "$M/large"
done
nothing_left "$M"
