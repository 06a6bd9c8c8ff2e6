#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# alone
# Two images that share layers, ten mounts of each at once: what they share is asked for once.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse
start_registry registry
big_image one base=6 mid=2 top1=3
big_image two base=6 mid=2 top2=9
push "$T/images/one" test/one:1
push "$T/images/two" other/two:1
start_proxy proxy
mount_one() {
  mkdir "$M/$1"
  if [ $(($1 % 2)) = 0 ]; then ifs mount -q "$PROXY/test/one:1" "$M/$1"; else ifs mount -q "$PROXY/other/two:1" "$M/$1"; fi
}
storm 20 mount_one
requests once "$T/images/one" "$T/images/two" || fail "blobs were not asked once"
same "layers made" 4 "$(ifs status --json | field 'len(j["layers"])')"
unpacked "$T/images/one" "$T/truth1"
unpacked "$T/images/two" "$T/truth2"
$PY "$LIB/tree.py" compare "$T/truth1" "$M/2" --loose-root || fail "wrong tree of the first image"
$PY "$LIB/tree.py" compare "$T/truth2" "$M/1" --loose-root || fail "wrong tree of the second image"
# What one image no longer needs and the other does stays.
ifs umount --all
ifs rm "$PROXY/test/one:1" >/dev/null
same "layers left" 3 "$(ifs status --json | field 'len(j["layers"])')"
ifs mount -q --pull never "$PROXY/other/two:1" "$M/1" >/dev/null
