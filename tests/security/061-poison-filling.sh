#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# An image with a published index that lies claims the DiffID of a well known layer, and its registry withholds the
# rest: the genuine image of an honest registry is neither shown by it, nor held up.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_root; need_fuse
start_registry registry
start_shaper line
$PY "$LIB/claims.py" twins "$T/images"
for name in real fake; do push "$T/images/$name" test/$name:1 >/dev/null; done
publish fake
$PY "$LIB/claims.py" claim "$REGISTRY" fake real test/evil
pinned=$REGISTRY/test/real@$(manifest_of real)
configure '[fill]' 'background = true' 'quiet = "1s"'
mkdir -p "$M/evil" "$M/real"
for mode in $(modes); do
  for umount in yes no; do
    store "$mode-$umount"
    shape rules '[]' >/dev/null
    ifs mount -q --mode "$mode" --deadline 5 "$SHAPED/test/evil:1" "$M/evil" >/dev/null
    same "$mode: the hostile files" 'HOSTILE ' "$(head -c 8 "$M/evil/bin/login")"
    shape rules '[{"path": "/blobs/", "delay": 3600}]' >/dev/null
    [ $umount = no ] || ifs umount "$M/evil"
    ifs mount -q --mode "$mode" "$pinned" "$M/real" >/dev/null
    same "$mode: the genuine image" 'GENUINE ' "$(head -c 8 "$M/real/bin/login")"
    same "$mode: its mode" 755 "$(stat -c %a "$M/real/bin/login")"
    for file in 0 7 19; do
      cmp "$M/real/pad/$file" <($PY -c "import random, sys; sys.stdout.buffer.write(random.Random($file).randbytes(200000))") ||
        fail "$mode: pad/$file"
    done
    # What the registry gives in the end is found out.
    shape rules '[]' >/dev/null
    if [ $umount = no ]; then
      wait_for 60 '[ "$(states "$M/evil")" = damaged ]' || fail "$mode: $(state "$M/evil")"
      same "$mode: the genuine image then" 'GENUINE ' "$(head -c 8 "$M/real/bin/login")"
    fi
    ifs umount --all
    ifs stop
  done
done
