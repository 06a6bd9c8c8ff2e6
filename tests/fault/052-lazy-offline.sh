#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The registry is gone after the index is here: names and attributes are there as ever, a read waits as long
# as it was told to and fails, a reader that is killed is gone, and when the registry is back reads work.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_root; need_fuse
start_registry registry
lazy_image app gzip
publish app
truth app "$T/truth"
# A device node is none before its layer is proven.
(cd "$T/truth" && find . ! -path ./var/null -printf '%p %y %m %U %G %T@ %l\n' | sort) >"$T/names"
ref=$REGISTRY/test/app:1
a=usr/lib/random b=usr/share/doc/1/45
state_of() { sed -n 's/^State:\t\(.\).*/\1/p' "/proc/$1/status" 2>/dev/null || true; }
waiting() { state "$1" | field 'sum(l["waiting"] for l in j["layers"])'; }
for mode in $(modes); do
  store "$mode"
  mkdir -p "$M/$mode" "$M/$mode-long"
  ifs mount -q --mode "$mode" --deadline 3 "$ref" "$M/$mode" >/dev/null
  registry_dies
  (cd "$M/$mode" && find . ! -path ./var/null -printf '%p %y %m %U %G %T@ %l\n' | sort) >"$T/seen"
  diff "$T/names" "$T/seen" >"$T/diff" || { head -5 "$T/diff"; fail "$mode: names and attributes"; }
  same "reads that waited for those" 0 "$(counter fill_waits)"
  reads_fail "$M/$mode/$a"
  [ "$(counter fill_reads_expired)" -gt 0 ] || fail "no read expired"
  state "$M/$mode" | field 'j["layers"][0]["reason"]' | grep -qi "connect\|refused" || fail "reason: $(state "$M/$mode")"
  same "waiting afterwards" 0 "$(waiting "$M/$mode")"
  # It did not fail for good, and needs nobody to say that the registry is back.
  registry_returns
  wait_for 30 "cmp -s '$T/truth/$a' '$M/$mode/$a'" || fail "$mode: reads do not work again"
  ifs umount --all
  ifs stop

  # Readers that are killed. The mount has no deadline of its own.
  store "$mode-killed"
  ifs mount -q --mode "$mode" "$ref" "$M/$mode-long" >/dev/null
  registry_dies
  readers=()
  for k in 1 2 3; do cat "$M/$mode-long/$a" >/dev/null 2>&1 & readers+=($!); done
  wait_for 20 '[ "$(waiting "$M/$mode-long")" -gt 0 ]' || fail "$mode: nobody waits"
  kill -9 "${readers[@]}"
  for pid in "${readers[@]}"; do
    wait_for 10 '[ -z "$(state_of $pid)" ] || [ "$(state_of $pid)" = Z ]' || fail "$mode: a killed reader is in state $(state_of $pid)"
  done
  # What the kernel has asked for on their behalf, as it reads ahead, waits on: it is not told of their end.
  before=$(waiting "$M/$mode-long")
  [ -d "$M/$mode-long/usr/bin" ] || fail "$mode: the mount is of no use"
  same "expired" 0 "$(counter fill_reads_expired)"
  # A reader that waits while the registry comes back gets its bytes.
  cat "$M/$mode-long/$b" >"$T/late" &
  late=$!
  wait_for 20 '[ "$(waiting "$M/$mode-long")" -gt "$before" ]' || fail "$mode: the next one does not wait"
  registry_returns
  wait $late || fail "$mode: the reader that waited"
  cmp "$T/truth/$b" "$T/late"
  cmp "$T/truth/$a" "$M/$mode-long/$a"
  ifs umount --all
  ifs stop
done
