#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Bad input on the command line and at the target: one line that names the thing, a status that is
# not zero, nothing left behind.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse
image plain whiteouts
ref=oci:$T/images/plain
mkdir "$M/a" "$M/b"
echo text >"$M/file"
ln -s "$M/a" "$M/link"
refuse 4 'no-such' ifs mount -q "$ref" "$M/no-such"
refuse 1 'file.*not a directory|directory' ifs mount -q "$ref" "$M/file"
nothing_left "$M"
ifs mount -q "$ref" "$M/link" >/dev/null
same "a link is resolved" "[\"$M/a\"]" "$(ifs ls --json | field '[m["directory"] for m in j]')"
refuse 6 'already|in use|mounted' ifs mount -q "$ref" "$M/a"
refuse 6 'already|in use|mounted' ifs mount -q "oci:$T/images/whiteouts" "$M/a"
same "still the first" "root:x:0:0::/:/bin/sh" "$(cat "$M/a/etc/passwd")"
ifs umount "$M/a"
refuse 2 '' ifs
refuse 2 'no-such-verb|verb|command|expected' ifs no-such-verb
refuse 2 'mode' ifs mount --mode nonsense "$ref" "$M/a"
refuse 2 'platform' ifs mount --platform nonsense/ "$ref" "$M/a"
refuse 2 '' ifs mount "$ref"
refuse 2 '' ifs umount
refuse 7 'root|permission|cannot' "$IMAGEFS" --root /proc/nowhere/root --run "$T/run2" images
refuse 7 'permission|read-only|cannot|store' "$IMAGEFS" --root "$M/file" --run "$T/run3" images
[ -z "$(mounts_below "$T")" ] || fail "something is mounted"
# A directory that is not empty is covered and comes back.
touch "$M/b/mine"
ifs mount -q "$ref" "$M/b" >/dev/null
[ ! -e "$M/b/mine" ] || fail "not covered"
ifs umount "$M/b"
[ -e "$M/b/mine" ] || fail "not uncovered"
nothing_left "$M"
