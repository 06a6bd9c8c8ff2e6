#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# imagefs evict: the space of an image that is mounted is not given back; that of others is, and they are
# then shown without a network, and get their bytes when there is one.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_root; need_fuse
start_registry registry
start_shaper line
lazy_image app gzip
truth app "$T/truth"
(cd "$T/truth" && find . -printf '%p %y %m %U %G %T@ %l\n' | sort) >"$T/names"
ref=$SHAPED/test/app:1 file=usr/lib/random
used() { du -s -B1 "$ROOT/layers" | cut -f1; }
for mode in $(modes); do
  store "$mode"
  m=$M/$mode
  mkdir -p "$m"
  # By a pass over the whole: its span table is made afterwards, and makes it readable in parts.
  ifs mount -q --mode "$mode" "$ref" "$m" >/dev/null
  same "layers shown early" 0 "$(counter layers_lazy)"
  wait_for 30 '[ "$(counter span_tables_built)" = 2 ]' || fail "no span tables"
  wait_for 30 '[ "$(states "$m")" = complete ]' || fail "never durable: $(states "$m")"
  refuse 6 "test/app:1: layer .* in use; unmount.*imagefs ls" ifs evict "$ref"
  cmp "$T/truth/$file" "$m/$file"
  ifs umount "$m"
  refuse 4 'no image .*test/absent:1.*imagefs images' ifs evict "$SHAPED/test/absent:1"
  refuse 2 'REF' ifs evict
  before=$(used)
  wait_for 30 'ifs evict --json "$ref" >"$T/freed.json" 2>"$T/err"' || fail "evict: $(cat "$T/err")"
  freed=$(field 'j["freed_bytes"]' <"$T/freed.json")
  [ "$freed" -gt 5000000 ] && [ $((before - $(used))) -ge 5000000 ] || fail "it said $freed, and gave $((before - $(used)))"

  # Nobody is there to be asked, and nobody has to be.
  registry_dies
  lookups=$(counter index_lookups)
  forget_requests
  ifs mount -q --mode "$mode" --deadline 2 "$ref" "$m" >/dev/null
  (cd "$m" && find . -printf '%p %y %m %U %G %T@ %l\n' | sort) >"$T/seen"
  diff "$T/names" "$T/seen" >"$T/diff" || { head -5 "$T/diff"; fail "$mode: names and attributes"; }
  same "states" filling "$(states "$m")"
  refuse 6 "test/app:1: layer .* in use" ifs evict "$ref"   # while it is mounted and fills
  reads_fail "$m/$file"
  registry_returns
  wait_for 30 "cmp -s '$T/truth/$file' '$m/$file'" || fail "$mode: reads do not work again"
  same "questions for an index" "$lookups" "$(counter index_lookups)"
  sent=$(sent app)
  [ "$sent" -gt 0 ] && [ "$sent" -lt 3000000 ] || fail "$mode: $sent bytes came for one file"
  $PY "$LIB/tree.py" compare "$T/truth" "$m" || fail "$mode: another tree"
  wait_for 20 '[ "$(states "$m")" = complete ]' || fail "$mode: $(state "$m")"
  ifs umount --all
  ifs stop
done
