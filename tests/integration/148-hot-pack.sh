#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The hot pack: published with the profile; a cold start gets the pages of the first run by one request, and reads no
# span; a pack that is broken, late or false costs no reader a wrong byte that stays unnoticed.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_root; need_fuse; need zstd
start_registry registry
start_shaper line
lazy_image app gzip 1 10
publish app
truth app "$T/truth"
ref=$SHAPED/test/app:1
files=(usr/bin/marked usr/share/doc/1/45 usr/share/doc/3/130 usr/lib/upper3)
mkdir -p "$M"/{first,quiet,off,cut,late,wrong,false,unread,again,restart,many}
read_all() { local file; for file in "${files[@]}"; do cmp "$T/truth/$file" "$1/$file"; done; }
whole() {  # whole DIR: all of it comes, and is right
  local where=$1
  ifs pull -q --wait "$where" >/dev/null
  wait_for 30 '[ "$(states "$where")" = complete ]' || fail "$where: $(state "$where")"
  lazy readers "$T/truth" "$where" --readers 2 >/dev/null || fail "$where: wrong bytes"
}
# A start on a busy machine may be ahead of the pack, and then asks for spans. cold NAME DIR MODE READ: the first of some starts,
# each of a store of its own, that does not, is left mounted.
cold() {
  local i
  for i in 1 2 3 4 5 6; do
    store "$1-$i"
    forget_requests
    ifs mount -q --mode "$3" "$ref" "$2" >/dev/null
    "$4" "$2"
    [ "$(counter fill_requests)" != 0 ] || return 0
    ifs umount --all; ifs stop
  done
  fail "$1: no start got all from the pack"
}
asked_for() { grep -c "\"path\": \"[^\"]*$1" "$SHAPER/requests" || true; }

# Recorded and published.
store first
ifs mount -q "$ref" "$M/first" >/dev/null
read_all "$M/first"
ifs umount "$M/first"
ifs profile show "$ref" >/dev/null   # ends the recording
ifs index -q --push --profile --json "$REGISTRY/test/app:1" >"$T/index.json"
pack_bytes=$(field 'j["hot_pack_bytes"]' <"$T/index.json")
same "pages of about what was read" true "$(field '0 < j["hot_pack_bytes"] < j["hot_pack_data_bytes"] < 2 << 20' <"$T/index.json")"
ifs index --push --profile "$REGISTRY/test/app:1" 2>/dev/null | grep -qE '^hot pack: .* for .* of pages$' || fail "its size is not said"
lazy manifest "$REGISTRY/test/app" "sha256-$(manifest_of app | cut -d: -f2).imagefs" 2>/dev/null >"$T/artifact.json"
field '[l for l in j["layers"] if l["mediaType"] == "application/vnd.imagefs.hot-pack.v1"][0]' <"$T/artifact.json" >/dev/null || fail "no pack in the artifact"
pack=$(field '[l["digest"] for l in j["layers"] if l["mediaType"].endswith("hot-pack.v1")][0]' <"$T/artifact.json")
same "its size" "$pack_bytes" "$(field '[l["size"] for l in j["layers"] if l["mediaType"].endswith("hot-pack.v1")][0]' <"$T/artifact.json")"
ifs stop

# A cold start reads no span, in every presentation.
for mode in $(modes); do
  mkdir -p "$M/$mode"
  cold "cold-$mode" "$M/$mode" "$mode" read_all
  same "$mode: bytes of layers" 0 "$(sent app)"
  same "$mode: requests for the pack" 1 "$(asked_for "$pack")"
  [ "$(counter hot_pack_reads)" -gt 0 ] && [ "$(sum "$M/$mode" hot_bytes)" -gt 0 ] || fail "$mode: $(state "$M/$mode")"
  ifs status "$M/$mode" | grep -q 'came with the hot pack' || fail "$mode: the status does not say so"
  whole "$M/$mode"
  same "$mode: lies" 0 "$(counter hot_pack_wrong_spans)"
  same "$mode: nothing to compare any more" "" "$(find "$ROOT/layers" -name hot)"
  ifs umount --all; ifs stop
done

# Many at once, one pack; with the daemon stopped and started in between, its pages are asked for again.
store many
forget_requests
for i in 1 2 3 4 5 6; do mkdir -p "$M/many$i"; ifs mount -q "$ref" "$M/many$i" >/dev/null & pids[i]=$!; done
for i in 1 2 3 4 5 6; do wait "${pids[i]}" || fail "mount $i"; done
for i in 1 2 3 4 5 6; do read_all "$M/many$i"; done
same "many mounts" 1 "$(asked_for "$pack")"
slay "$(daemons_of "$RUN")"
ifs mount -q "$ref" "$M/restart" >/dev/null   # starts a daemon, which goes on with the others
read_all "$M/many1"
cat "$M/many2/usr/share/doc/1/46" >/dev/null
whole "$M/many3"
same "lies after a restart" 0 "$(counter hot_pack_wrong_spans)"
ifs umount --all; ifs stop

# Turned off: the profile alone.
configure '[fill]' 'background = false' 'hot_pack = false'
store off
forget_requests
ifs mount -q "$ref" "$M/off" >/dev/null
read_all "$M/off"
same "turned off" 0 "$(asked_for "$pack")"
[ "$(sent app)" -gt 0 ] || fail "no spans either"
ifs umount --all; ifs stop
configure '[fill]' 'background = false'

# Broken, silent, or changed on its way: spans are asked for instead.
broken() {  # broken NAME RULES
  store "$1"
  shape rules "$2" >/dev/null
  forget_requests
  ifs mount -q "$ref" "$M/$1" >/dev/null
  read_all "$M/$1"
  [ "$(sent app)" -gt 0 ] || fail "$1: nothing was asked for instead"
  shape rules '[]' >/dev/null
  whole "$M/$1"
  same "$1: lies" 0 "$(counter hot_pack_wrong_spans)"
  ifs umount --all; ifs stop
}
broken cut "[{\"path\": \"$pack\", \"status\": 404}]"
broken late "[{\"path\": \"$pack\", \"delay\": 8}]"
broken wrong "[{\"path\": \"$pack\", \"wrong_byte\": $((pack_bytes - 10))}, {\"path\": \"$pack\", \"wrong_byte\": 30}]"

# A pack that lies with a right header. Once somebody has read it, its layer is given up.
lazy lie "$REGISTRY/test/app" "$(manifest_of app)" pack
cat_all() { local file; for file in "${files[@]}"; do cat "$1/$file" >/dev/null; done; }
cold false "$M/false" auto cat_all
ifs pull -q --wait "$M/false" >/dev/null 2>"$T/err" || true
wait_for 20 '[[ "$(states "$M/false")" = *damaged* ]]' || fail "$(state "$M/false")"
log_says 'hot_pack.wrong .*served=yes' || fail "$(tail -20 "$RUN/daemon.log")"
ifs umount --all
# Neither it nor its index is believed again.
forget_requests
ifs mount -q "$ref" "$M/again" >/dev/null
read_all "$M/again"
same "asked for the pack again" 0 "$(lazy manifest "$REGISTRY/test/app" "sha256-$(manifest_of app | cut -d: -f2).imagefs" 2>/dev/null |
  field '[l["digest"] for l in j["layers"] if l["mediaType"].endswith("hot-pack.v1")][0]' | while read -r lie; do asked_for "$lie"; done)"
log_says 'index.refused .*hot pack had bytes' || fail "$(tail -20 "$RUN/daemon.log")"
ifs umount --all; ifs stop
# If nobody has read it, it is dropped.
store unread
ifs mount -q "$ref" "$M/unread" >/dev/null
wait_for 20 '[ "$(sum "$M/unread" hot_bytes)" -gt 0 ]' || fail "nothing came"
whole "$M/unread"
same "found out" true "$([ "$(counter hot_pack_wrong_spans)" -gt 0 ] && echo true)"
log_says 'hot_pack.wrong .*served=no' || fail "$(tail -20 "$RUN/daemon.log")"
ifs umount --all; ifs stop
