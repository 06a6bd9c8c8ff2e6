#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# alone
# Twenty `imagefs mount` of one image at the same time, cold store, no daemon: every byte of every
# blob is asked of the registry once, and every mount is right.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse
start_registry registry
big_image big a=2 b=21 c=5 d=0.1
push "$T/images/big" test/big:1
start_proxy proxy
mount_one() { mkdir "$M/$1" && ifs mount -q "$PROXY/test/big:1" "$M/$1"; }
storm 20 mount_one
requests once "$T/images/big" || fail "blobs were not asked once"
# The image's own, and one question about an index of it: two tags and the list of referrers.
same "manifest requests" 3 "$(requests count '^GET .*/manifests/')"
same "questions for referrers" 1 "$(requests count '^GET .*/referrers/')"
same "layer flights" 4 "$(ifs status --json | field 'j["flights"]["layer"]["leaders"]')"
# Span tables are made when nothing else is to be done.
wait_for 20 '[ "$(flights "f[\"active\"] + f[\"waiting\"]")" = 0 ]' || fail "a flight is left"
[ "$(flights 'f["joins"]')" -gt 0 ] || fail "nobody joined: the storm was none"
same "daemons" 1 "$(daemons | wc -w)"
same "mounts" 20 "$(ifs ls --json | field 'len(j)')"
unpacked "$T/images/big" "$T/truth"
for i in 1 7 20; do $PY "$LIB/tree.py" compare "$T/truth" "$M/$i" --loose-root || fail "mount $i is wrong"; done
for i in $(seq 20); do cmp "$T/truth/b/bytes" "$M/$i/b/bytes" || fail "mount $i"; done
ifs umount --all
nothing_left "$M"
