#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# eStargz and zstd:chunked images that claim the DiffID of somebody else's layer: the genuine image, by digest or
# tag, whole or lazily, shows genuine files only, whatever was shown before, after eviction, removal and restart.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_root; need_fuse
start_registry registry
$PY "$LIB/claims.py" tables "$T/images"
for name in genuine estargz chunked; do push "$T/images/$name" test/$name:1 >/dev/null; done
pinned=$REGISTRY/test/genuine@$(manifest_of genuine)
configure '[fill]' 'background = true' 'quiet = "1s"'

genuine() {  # genuine WHAT MOUNT_ARGUMENT...: the genuine image is mounted so and shows itself
  local what=$1
  shift
  ifs mount -q "$@" "$M/genuine" >/dev/null
  same "$what: bin/login" 'GENUINE ' "$(head -c 8 "$M/genuine/bin/login")"
  same "$what: its mode" 755 "$(stat -c %a "$M/genuine/bin/login")"
  same "$what: source" proven "$(state "$M/genuine" | field '" ".join(sorted({l["source"] for l in j["layers"]}))')"
  ifs umount "$M/genuine"
}

mkdir -p "$M/genuine" "$M/evil"
for evil in estargz chunked; do
  for mode in $(modes); do
    store "$evil-$mode"
    ifs mount -q --mode "$mode" "$REGISTRY/test/$evil:1" "$M/evil" >/dev/null
    same "$evil $mode: its own files" 'HOSTILE ' "$(head -c 8 "$M/evil/bin/login")"
    # Of what it is, not of what it claims.
    same "$evil $mode: source" in-image "$(state "$M/evil" | field 'j["layers"][0]["source"]')"
    [ "$(state "$M/evil" | field 'j["chain_id"]')" != "$(ifs inspect --json "$pinned" | field 'j["chain_id"]')" ] ||
      fail "$evil: the genuine ChainID"
    genuine "$evil $mode beside it, eager" --eager --mode "$mode" "$pinned"
    # Once all is here it is found out, alone, and the message says which claim is false.
    wait_for 30 '[ "$(states "$M/evil")" = damaged ]' || fail "$evil $mode: $(state "$M/evil")"
    state "$M/evil" | field 'j["layers"][0]["reason"]' | grep -q 'says DiffID' || fail "$evil: reason: $(state "$M/evil")"
    reads_fail "$M/evil/pad/19"
    genuine "$evil $mode found out, lazily" --mode "$mode" "$REGISTRY/test/genuine:1"
    ifs umount "$M/evil"
    refuse 3 'says DiffID' ifs mount --mode "$mode" "$REGISTRY/test/$evil:1" "$M/evil" -q
    ifs rm "$REGISTRY/test/genuine:1" "$pinned" >/dev/null 2>&1 || ifs rm "$pinned" >/dev/null || true

    # Evil first and alone, its record left, over a restart.
    store "$evil-$mode-first"
    ifs mount -q --mode "$mode" "$REGISTRY/test/$evil:1" "$M/evil" >/dev/null
    ifs stop
    genuine "$evil $mode after a restart" --mode "$mode" "$pinned"
    ifs pull -q "$pinned"
    genuine "$evil $mode pulled" --mode "$mode" --pull never "$pinned"
    ifs umount --all
    ifs stop

    # Genuine first: evil neither replaces it nor is given it.
    store "$evil-$mode-last"
    ifs pull -q "$pinned"
    ifs mount -q --mode "$mode" "$REGISTRY/test/$evil:1" "$M/evil" >/dev/null
    same "$evil $mode last: its own files" 'HOSTILE ' "$(head -c 8 "$M/evil/bin/login")"
    genuine "$evil $mode last" --mode "$mode" "$pinned"
    ifs umount --all
    ifs evict "$pinned" >/dev/null 2>&1 || true
    genuine "$evil $mode evicted" --mode "$mode" "$pinned"
    ifs umount --all
    ifs stop
  done
done
