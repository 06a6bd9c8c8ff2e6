#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A full disk: one clear line, nothing half-made is kept, mounts that work go on working, and it
# works again once there is room.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse
mkdir "$T/small" "$M/a" "$M/b"
mount -t tmpfs -o size=24m tmpfs "$T/small"
ROOT=$T/small/root
image plain
big_image big one=20 layer1=20
ifs mount -q "oci:$T/images/plain" "$M/a" >/dev/null
refuse 10 'space|full|disk' ifs mount -q "oci:$T/images/big" "$M/b"
nothing_left "$M/b"
same "content" "root:x:0:0::/:/bin/sh" "$(cat "$M/a/etc/passwd")"
used=$(df --output=used -k "$T/small" | tail -1)
[ "$used" -lt 12000 ] || fail "$used KiB are still in use after the failure"
mount -o remount,size=200m "$T/small"
ifs mount -q "oci:$T/images/big" "$M/b" >/dev/null
[ -e "$M/b/layer1/bytes" ] || fail "no content"
ifs umount --all
ifs stop
