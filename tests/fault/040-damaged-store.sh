#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Files of the store that were damaged, cut or removed behind the daemon's back: the daemon starts,
# and the image comes again instead of wrong bytes.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse
start_registry registry
big_image big a=2 b=1
push "$T/images/big" test/big:1
ref=$REGISTRY/test/big:1
unpacked "$T/images/big" "$T/truth"
mkdir "$M/a"
ready() {
  ifs mount -q "$ref" "$M/a" >/dev/null
  $PY "$LIB/tree.py" compare "$T/truth" "$M/a" --loose-root || fail "wrong tree: $1"
  wait_for 20 "ifs status --json | field 'all(l[\"state\"] == \"complete\" for l in j[\"layers\"])' | grep -q true" || fail "never durable"
  ifs umount "$M/a"
  ifs stop
  wait_for 20 '[ -z "$(daemons)" ]' || fail "still running"
}
ready "first"
chain=$(find "$ROOT/chains" -type f | head -1)
for damage in chain-cut chain-gone index-cut index-gone data-cut data-gone layer-gone chain-noise; do
  layer=$(find "$ROOT/layers" -mindepth 1 -maxdepth 1 -type d | head -1)
  chain=$(find "$ROOT/chains" -type f | head -1)
  case $damage in
    chain-cut) truncate -s 700 "$chain" ;;
    chain-gone) rm "$chain" ;;
    chain-noise) head -c 20000 /dev/urandom >"$chain" ;;
    index-cut) truncate -s 100 "$layer/index" ;;
    index-gone) rm "$layer/index" ;;
    data-cut) truncate -s 5000 "$layer/data" ;;
    data-gone) rm "$layer/data" ;;
    layer-gone) rm -r "$layer" ;;
  esac
  ready "$damage"
done
