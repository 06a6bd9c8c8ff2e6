#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# An image that is pinned by its digest shows what the digest covers: an index that somebody pushed beside it is
# not believed before the layer is proven, not even where the registry itself lies.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_root; need_fuse
start_registry registry
start_shaper line
lazy_image app gzip 3 6
publish app
truth app "$T/truth"
pinned=$SHAPED/test/app@$(manifest_of app)
lazy lie "$REGISTRY/test/app" "$(manifest_of app)" mode
mkdir -p "$M/pinned" "$M/tag"
for mode in $(modes); do
  store "app-$mode"
  ifs mount -q --mode "$mode" "$pinned" "$M/pinned" >/dev/null
  same "$mode: mode" 4711 "$(stat -c %a "$M/pinned/usr/bin/marked")"
  same "$mode: source" proven "$(state "$M/pinned" | field '" ".join(sorted({l["source"] for l in j["layers"]}))')"
  $PY "$LIB/tree.py" compare "$T/truth" "$M/pinned" || fail "$mode: another tree"
  ifs umount --all
  ifs stop

  # The tag is as good as whoever may push; it says so, carries no power, and is found out.
  store "tag-$mode"
  ifs mount -q --mode "$mode" "$SHAPED/test/app:1" "$M/tag" >/dev/null
  state "$M/tag" | field '" ".join(sorted({l["source"] for l in j["layers"]}))' | grep -q beside || fail "$mode: $(state "$M/tag")"
  grep " $M/tag " /proc/self/mountinfo | grep -q nosuid || fail "$mode: the setuid bit of an unproven tree works"
  ifs mount -q --mode "$mode" "$pinned" "$M/pinned" >/dev/null
  same "$mode: pinned beside the tag" 4711 "$(stat -c %a "$M/pinned/usr/bin/marked")"
  ifs umount --all
  ifs stop
done

# The operator may say otherwise.
configure '[fill]' 'background = false' '[index]' 'trust = "any"'
store any
ifs mount -q "$pinned" "$M/pinned" >/dev/null
state "$M/pinned" | field '" ".join(sorted({l["source"] for l in j["layers"]}))' | grep -q beside || fail "any: $(state "$M/pinned")"
ifs umount --all
ifs stop
