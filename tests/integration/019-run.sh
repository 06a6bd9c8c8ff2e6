#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A real program with its shared libraries runs out of a mounted image by chroot, its memory mapped
# from the mount; many readers at once get the right bytes.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse
$PY "$LIB/oci.py" host-image "$T/images/host" sh cat ls sha256sum
mkdir "$M/a"
ifs mount -q "oci:$T/images/host" "$M/a" >/dev/null
same "chroot" "hello from the image" "$(chroot "$M/a" /bin/sh -c '/bin/cat /hello')"
same "program" "$(sha256sum </usr/bin/sha256sum)" "$(chroot "$M/a" /bin/sha256sum </usr/bin/sha256sum)"
find "$M/a" -type f -exec sha256sum {} + | sed "s@$M/a@@" | sort >"$T/sums"
(cd / && sed 's/\* /  /' "$T/sums" | grep -v ' /hello$' | sha256sum -c --quiet) || fail "bytes differ"
pids=()
for i in $(seq 8); do
  (echo 3 >/proc/sys/vm/drop_caches 2>/dev/null || true
   find "$M/a" -type f -exec sha256sum {} + | sed "s@$M/a@@" | sort | cmp - "$T/sums") &
  pids+=($!)
done
for pid in "${pids[@]}"; do wait "$pid" || fail "a parallel reader saw other bytes"; done
