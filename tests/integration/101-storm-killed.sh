#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# alone
# The first caller is killed in the middle of the download; nineteen others wait for the same layers:
# all succeed, and still no byte is asked twice.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse
start_registry registry
big_image big a=3 b=12 c=1
push "$T/images/big" test/big:1
start_proxy proxy
ifs images >/dev/null   # the daemon is not the first caller's child
rules "[{\"path\": \"blobs\", \"hold\": \"$T/go\", \"cut_hold\": 300000}]"
ref=$PROXY/test/big:1
mkdir "$M/first"
"$IMAGEFS" --root "$ROOT" --run "$RUN" mount -q "$ref" "$M/first" >/dev/null 2>&1 &
first=$!
# Blobs of at least 300000 bytes hold; the config is smaller and passes.
wait_for 20 "blobs_began 2" || fail "no download began"
mount_one() { mkdir "$M/$1" && ifs mount -q "$ref" "$M/$1"; }
(
  wait_for 20 "[ \$(flights 'f[\"joins\"]') -ge 10 ]" || echo "few joined" >&2
  kill -9 $first
  sleep 0.2
  touch "$T/go"
) &
storm 19 mount_one
wait $first 2>/dev/null && fail "the first caller was not killed in time"
requests once "$T/images/big" || fail "blobs were not asked once"
nothing_left "$M/first"
same "mounts" 19 "$(ifs ls --json | field 'len(j)')"
unpacked "$T/images/big" "$T/truth"
$PY "$LIB/tree.py" compare "$T/truth" "$M/19" --loose-root || fail "wrong tree"
# Span tables are made when nothing else is to be done.
wait_for 20 '[ "$(flights "f[\"active\"] + f[\"waiting\"]")" = 0 ]' || fail "a flight is left"
