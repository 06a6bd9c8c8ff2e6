#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Ctrl-C leaves at once with status 130 and disturbs nobody; when the last one leaves the download
# stops; what was downloaded is used by the next.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse
start_registry registry
big_image big a=6
push "$T/images/big" test/big:1
start_proxy proxy
ref=$PROXY/test/big:1
mkdir "$M/a" "$M/b"
ifs images >/dev/null
rules "[{\"path\": \"blobs\", \"hold\": \"$T/go\", \"cut_hold\": 3000000}]"
start() { setsid "$IMAGEFS" --root "$ROOT" --run "$RUN" mount -q "$ref" "$M/$1" >"$T/$1.out" 2>&1 & }
start a; a=$!
wait_for 20 "blobs_began 2" || fail "no download began"
start b; b=$!
wait_for 20 "[ \$(flights 'f[\"joins\"]') -ge 1 ]" || fail "the second one does not join"
kill -INT $a
status=0
wait $a || status=$?
same "status after Ctrl-C" 130 $status
kill -0 $b || fail "the other caller was disturbed: $(cat "$T/b.out")"
kill -INT $b
status=0
wait $b || status=$?
same "status after the second Ctrl-C" 130 $status
wait_for 10 "[ \$(flights 'f[\"active\"] + f[\"waiting\"]') = 0 ]" || fail "the download goes on for nobody"
nothing_left_mounted() { [ -z "$(mounts_below "$M")" ] || fail "something is mounted"; }
nothing_left_mounted
touch "$T/go"
ifs mount -q "$ref" "$M/a" >/dev/null
unpacked "$T/images/big" "$T/truth"
$PY "$LIB/tree.py" compare "$T/truth" "$M/a" --loose-root || fail "wrong tree"
grep -q '"range": "bytes=[1-9]' "$REQUESTS" || fail "the download was not resumed"
