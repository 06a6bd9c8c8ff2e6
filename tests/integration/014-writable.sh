#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# --rw: an overlay on the image takes every change; the image itself and other mounts do not see it.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse
image replace
ref=oci:$T/images/replace
mkdir "$M"/{rw,ro,rw2}
ifs mount -q "$ref" "$M/ro" >/dev/null
ifs mount -q --rw "$ref" "$M/rw" >/dev/null
ifs mount -q --rw "$ref" "$M/rw2" >/dev/null
same "writable" '[false, true, true]' "$(ifs ls --json | field 'sorted(m["writable"] for m in j)')"
echo new >"$M/rw/new"
echo more >>"$M/rw/data"
rm -r "$M/rw/file-to-dir"
chown 5:6 "$M/rw/lib/x"
mv "$M/rw/dir-to-file" "$M/rw/renamed"
mkdir "$M/rw/usr/fresh"
same "appended" "much longer than beforemore" "$(cat "$M/rw/data")"
for other in ro rw2; do
  [ ! -e "$M/$other/new" ] || fail "$other sees a new file"
  same "$other data" "much longer than before" "$(cat "$M/$other/data")"
  [ -d "$M/$other/file-to-dir" ] || fail "$other lost a directory"
  same "$other owner" 0 "$(stat -c %u "$M/$other/lib/x")"
done
# The root of a writable mount has the image's attributes.
same "root" "$(stat -c '%a %u %g' "$M/ro")" "$(stat -c '%a %u %g' "$M/rw")"
ifs umount "$M/rw"
nothing_left "$M/rw"
ifs mount -q --rw "$ref" "$M/rw" >/dev/null
[ ! -e "$M/rw/new" ] || fail "the changes of a mount that is gone come back"
ifs umount --all
nothing_left "$M"
same "upper directories left" 0 "$(find "$ROOT/upper" -mindepth 1 -maxdepth 1 2>/dev/null | wc -l)"
