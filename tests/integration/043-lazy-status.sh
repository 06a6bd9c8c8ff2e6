#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What is told of a mount whose bytes are not all here is true, and `pull --wait`, `mount --eager` and a quiet
# moment bring the rest.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_root; need_fuse
start_registry registry
start_shaper line
lazy_image app gzip
publish app
blobs=$(lazy manifest "$REGISTRY/test/app" 1 2>/dev/null | field 'sum(l["size"] for l in j["layers"])')
truth app "$T/truth"
adds_up() {  # adds_up DIR: no number contradicts another one
  state "$1" >"$T/state.json"
  field 'all(0 <= l["blob_bytes_present"] <= l["blob_bytes"] and l["data_bytes_present"] <= l["data_bytes"]
             and (l["blob_bytes_present"] == l["blob_bytes"]) == (l["data_bytes_present"] == l["data_bytes"] or l["state"] == "complete")
             and l["blob_bytes_needed"] <= l["blob_bytes"] for l in j["layers"])' <"$T/state.json" | grep -q true ||
    { cat "$T/state.json"; fail "numbers that do not add up"; }
}
sum() { field "sum(l['$1'] for l in j['layers'])" <"$T/state.json"; }

for mode in $(modes); do
  store "$mode"
  mkdir -p "$M/$mode" "$M/$mode-eager"
  forget_requests
  ifs mount -q --mode "$mode" "$SHAPED/test/app:1" "$M/$mode" >/dev/null
  adds_up "$M/$mode"
  same "states" filling "$(states "$M/$mode")"
  same "mode" "$mode" "$(field 'j["mode"]' <"$T/state.json")"
  same "present at first" 0 "$(sum blob_bytes_present)"
  same "needed at first" 0 "$(sum blob_bytes_needed)"
  whole=$(sum blob_bytes)
  [ "$whole" -gt $((blobs * 9 / 10)) ] || fail "$whole of $blobs bytes are accounted for"
  cat "$M/$mode/usr/share/doc/1/45" >/dev/null
  cmp "$T/truth/usr/share/doc/1/45" "$M/$mode/usr/share/doc/1/45"
  adds_up "$M/$mode"
  needed=$(sum blob_bytes_needed) present=$(sum blob_bytes_present)
  [ "$needed" -gt 0 ] && [ "$needed" -le "$present" ] || fail "needed $needed, present $present"
  same "fetched, by the registry's side" "$(sent app)" "$(sum blob_bytes_fetched)"
  same "by the counters" "$(sent app)" "$(counter fill_bytes_fetched)"
  [ "$present" -lt $((whole / 2)) ] || fail "one small file brought $present of $whole bytes"
  ifs status "$M/$mode" | grep -qE ' filling ' || fail "status DIR says: $(ifs status "$M/$mode")"
  refuse 4 "$M/elsewhere" ifs status "$M/elsewhere"
  if [ "$mode" = fuse ]; then
    attribute() { getfattr --only-values -n "user.imagefs.$1" "$M/fuse" 2>/dev/null; }
    same "chain-id" "$(field 'j["chain_id"]' <"$T/state.json")" "$(attribute chain-id)"
    same "state" filling "$(attribute state)"
    same "bytes-total" "$whole" "$(attribute bytes-total)"
    same "bytes-present" "$present" "$(attribute bytes-present)"
    getfattr -d -m - "$M/fuse" 2>/dev/null | grep -q imagefs && fail "a list shows them"
    getfattr -n user.imagefs.state "$M/fuse/etc" >/dev/null 2>&1 && fail "others than the root have them"
  fi

  # The rest.
  ifs pull -q --wait "$M/$mode" >/dev/null
  same "states" complete "$(states "$M/$mode")"
  adds_up "$M/$mode"
  same "present" "$(sum blob_bytes)" "$(sum blob_bytes_present)"
  same "layers whose DiffID was checked" 2 "$(counter layers_filled)"
  same "damaged" 0 "$(counter layers_failed)"
  lazy once "$SHAPER/requests" "$T/images/app" || fail "bytes came twice"
  [ "$mode" = kernel ] || same "state" complete "$(attribute state)"
  requests=$(counter fill_requests)
  $PY "$LIB/tree.py" compare "$T/truth" "$M/$mode" --disarmed || fail "$mode: another tree"
  same "requests for it" "$requests" "$(counter fill_requests)"
  refuse 4 "$M/nothing.*no imagefs mount.*imagefs ls" ifs pull -q --wait "$M/nothing"
  refuse 2 'REF|--wait' ifs pull -q
  ifs umount --all

  # --eager waits for every byte.
  store "$mode-eager"
  ifs mount -q --eager --mode "$mode" --json "$SHAPED/test/app:1" "$M/$mode-eager" >"$T/eager.json"
  same "fetched" "$blobs" "$(field 'j["fetched_bytes"]' <"$T/eager.json")"
  same "layers shown early" 0 "$(counter layers_lazy)"
  states "$M/$mode-eager" | grep -qE '^(written|complete|complete written)$' || fail "states: $(states "$M/$mode-eager")"
  adds_up "$M/$mode-eager"
  ifs umount --all
done

# After a quiet moment it comes by itself.
configure '[fill]' 'quiet = "100ms"'
store background
mkdir "$M/background"
ifs mount -q "$SHAPED/test/app:1" "$M/background" >/dev/null
wait_for 30 '[ "$(states "$M/background")" = complete ]' || fail "nothing comes by itself"
adds_up "$M/background"
same "needed by readers" 0 "$(sum blob_bytes_needed)"
