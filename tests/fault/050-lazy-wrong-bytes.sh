#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Bytes that are not what the index says are never shown: wrong once, they are fetched again; wrong always,
# the files in that part fail and `status DIR` says why, and all others are as they should be.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_root; need_fuse
start_registry registry
start_shaper line
lazy_image app gzip
publish app
truth app "$T/truth"
blob=$(layer_of app 0)
file=usr/lib/random   # near the front, and larger than two spans
read -r begin end <<<"$(part_of app $file)"
at=$(((begin + end) / 2))
for mode in $(modes); do
  store "$mode"
  mkdir -p "$M/$mode"
  ifs mount -q --mode "$mode" "$SHAPED/test/app:1" "$M/$mode" >/dev/null
  shape rules "[{\"path\": \"blobs/sha256:$blob\", \"wrong_byte\": $at, \"times\": 1}]" >/dev/null
  cmp "$T/truth/$file" "$M/$mode/$file" || fail "$mode: a byte that was wrong once"
  same "spans that were wrong" 1 "$(counter fill_spans_wrong)"
  same "reads that failed" 0 "$(counter fill_reads_failed)"
  log_says 'span_refused layer=.* cause=' || fail "the log says nothing"
  ifs umount --all
  ifs stop

  store "$mode-always"
  ifs mount -q --mode "$mode" "$SHAPED/test/app:1" "$M/$mode" >/dev/null
  shape rules "[{\"path\": \"blobs/sha256:$blob\", \"wrong_byte\": $at}]" >/dev/null
  reads_fail "$M/$mode/$file"
  same "tries" 3 "$(($(counter fill_spans_wrong) < 3 ? $(counter fill_spans_wrong) : 3))"
  [ "$(state "$M/$mode" | field '[bool(l["reason"]) for l in j["layers"]]')" = '[true, false]' ] || fail "no reason: $(state "$M/$mode")"
  ifs status "$M/$mode" | grep -qiE '^[0-9a-f]{12}: .*(digest|deflate|gzip|span|wrong)' || fail "status says: $(ifs status "$M/$mode")"
  [ "$(counter fill_reads_failed)" -gt 0 ] || fail "no read failed"
  same "state" filling "$(states "$M/$mode")"
  # Everything else, where it is not in the very same part.
  wrong=0
  while read -r other; do
    cmp -s "$T/truth/$other" "$M/$mode/$other" && continue
    read -r b e <<<"$(part_of app "$other")"
    [ "$b" -lt $((at + (300 << 10))) ] && [ "$e" -gt $((at - (300 << 10))) ] || fail "$mode: $other fails as well"
    wrong=$((wrong + 1))
  done < <(cd "$T/truth" && find usr/share/doc etc -type f)
  echo "$mode: $wrong other files in that part"
  # When the bytes are right again, so is the file.
  shape rules '[]' >/dev/null
  wait_for 10 "cmp -s '$T/truth/$file' '$M/$mode/$file'" || fail "$mode: it does not get well"
  $PY "$LIB/tree.py" compare "$T/truth" "$M/$mode" --disarmed || fail "$mode: another tree"
  wait_for 20 '[ "$(states "$M/$mode")" = complete ]' || fail "$mode: $(state "$M/$mode")"
  ifs umount --all
  ifs stop
done
