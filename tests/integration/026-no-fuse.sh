#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A machine or container without /dev/fuse: FUSE mounts are refused with the remedy and nothing is left;
# the kernel presentation does without it.
. "$(dirname "$0")/../lib/lib.sh"
need_root
if [ -z "${IMAGEFS_TEST_NAMESPACE:-}" ]; then
  modes >/dev/null 2>&1   # before /dev is another
  status=0
  IMAGEFS_TEST_NAMESPACE=1 unshare -m --propagation private "$0" || status=$?
  exit $status
fi
image plain
mkdir "$M"/{a,b}
hide_fuse
refuse 1 '/dev/fuse.*modprobe' ifs mount -q --mode fuse "oci:$T/images/plain" "$M/a"
nothing_left "$M"
same "nothing is listed" "[]" "$(ifs ls --json | tr -d ' \n')"
if modes 2>/dev/null | grep -qx kernel; then
  ifs mount -q "oci:$T/images/plain" "$M/b" >/dev/null
  same "content" "root:x:0:0::/:/bin/sh" "$(cat "$M/b/etc/passwd")"
  same "mode" '["kernel"]' "$(ifs ls --json | field '[m["mode"] for m in j]')"
  ifs umount "$M/b"
fi
nothing_left "$M"
