#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Progress: a line a layer with bytes and what it is doing; on a terminal it is drawn in place, in a
# file it is plain lines; -q says nothing.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse; need script
start_registry registry
big_image big a=4 b=1
push "$T/images/big" test/big:1
start_proxy proxy
rules '[{"path": "blobs", "rate": 3000000}]'
mkdir "$M/a" "$M/b"
ifs mount "$PROXY/test/big:1" "$M/a" >"$T/out" 2>"$T/err"
! grep -q $'\033' "$T/err" || fail "control characters in a file"
grep -qiE 'download|unpack' "$T/err" || { cat "$T/err"; fail "no word of what it does"; }
same "one line on stdout" 1 "$(grep -c . "$T/out")"
ifs umount "$M/a"
ifs rm "$PROXY/test/big:1" >/dev/null
TERM=xterm script -qec "'$IMAGEFS' --root '$ROOT' --run '$RUN' mount '$PROXY/test/big:1' '$M/b'" "$T/typescript" >/dev/null
grep -q $'\033\|\r' "$T/typescript" || fail "nothing is drawn on a terminal"
grep -qi 'MiB\|MB' "$T/typescript" || { cat -v "$T/typescript" | tail -5; fail "no sizes"; }
[ -e "$M/b/b/bytes" ] || fail "no mount"
