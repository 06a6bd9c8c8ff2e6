#!/bin/bash
# A real program with its shared libraries runs out of a mounted image by chroot, its memory mapped
# from the mount; many readers at once get the right bytes.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse
$PY - "$LIB" "$T/images/host" <<'PY'
import os, re, subprocess, sys
sys.path.insert(0, sys.argv[1])
from oci import *
programs = ["/bin/sh", "/bin/cat", "/bin/ls", "/usr/bin/sha256sum"]
files = {}
for program in programs:
    files[program] = open(program, "rb").read()
    for path in re.findall(r"(/\S+) \(0x", subprocess.check_output(["ldd", program], text=True)):
        files[path] = open(path, "rb").read()
low, high, made = Tar(), Tar(), set()
def parents(t, path):
    for i in range(2, len(path.split("/"))):
        d = "/".join(path.split("/")[:i])[1:]
        if d and d not in made:
            made.add(d)
            t.dir(d)
for path, data in sorted(files.items()):
    parents(low, path)
    low.file(path, data, mode=0o755)
high.dir("tmp", mode=0o1777).file("hello", b"hello from the image\n")
simple_image(sys.argv[2], [low, high])
PY
mkdir "$M/a"
ifs mount -q "oci:$T/images/host" "$M/a" >/dev/null
same "chroot" "hello from the image" "$(chroot "$M/a" /bin/sh -c '/bin/cat /hello')"
same "program" "$(sha256sum </usr/bin/sha256sum)" "$(chroot "$M/a" /usr/bin/sha256sum </usr/bin/sha256sum)"
find "$M/a" -type f -exec sha256sum {} + | sed "s@$M/a@@" | sort >"$T/sums"
(cd / && sed 's/\* /  /' "$T/sums" | grep -v ' /hello$' | sha256sum -c --quiet) || fail "bytes differ"
pids=()
for i in $(seq 8); do
  (echo 3 >/proc/sys/vm/drop_caches 2>/dev/null || true
   find "$M/a" -type f -exec sha256sum {} + | sed "s@$M/a@@" | sort | cmp - "$T/sums") &
  pids+=($!)
done
for pid in "${pids[@]}"; do wait "$pid" || fail "a parallel reader saw other bytes"; done
