#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# alone
# Connections are cut in the middle again and again under a storm: the download goes on where it was
# cut, no byte is asked twice, nobody notices.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse
start_registry registry
big_image big a=2 b=20 c=4
push "$T/images/big" test/big:1
start_proxy proxy
rules '[{"path": "blobs", "cut": 200000, "times": 3, "id": "a"}, {"path": "blobs", "cut": 1000001, "times": 3, "id": "b"},
        {"path": "blobs", "status": 503, "times": 1, "id": "c"}]'
mount_one() { mkdir "$M/$1" && ifs mount -q "$PROXY/test/big:1" "$M/$1"; }
storm 20 mount_one
requests once "$T/images/big" || fail "blobs were not asked once"
unpacked "$T/images/big" "$T/truth"
$PY "$LIB/tree.py" compare "$T/truth" "$M/20" --loose-root || fail "wrong tree"
grep -q '"cut": true' "$REQUESTS" || fail "nothing was cut"
