#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Without the registry, what is here goes on: new mounts of a known image, reads of all its files;
# only what is not here says so. A restart needs no network either.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse
start_registry registry
big_image big a=2 b=1
push "$T/images/big" test/big:1
mkdir "$M/a" "$M/b"
ref=$REGISTRY/test/big:1
ifs pull -q "$ref" >/dev/null
wait_for 20 "ifs status --json | field 'all(l[\"state\"] == \"complete\" for l in j[\"layers\"])' | grep -q true" || fail "never durable"
slay "${TEST_PIDS[0]}"
ifs mount -q "$ref" "$M/a" >/dev/null
slay $(daemons)
umount -l "$M/a" 2>/dev/null || true
ifs mount -q "$ref" "$M/b" >/dev/null
unpacked "$T/images/big" "$T/truth"
$PY "$LIB/tree.py" compare "$T/truth" "$M/b" --loose-root || fail "wrong tree"
refuse 8 "$REGISTRY" ifs pull -q "$REGISTRY/test/other:1"
