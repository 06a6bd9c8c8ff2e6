#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The profile of the first run: recorded, shown, exported, imported elsewhere, published, cleared; a cold start
# that has one fetches those parts, and no others, before anybody reads.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_root; need_fuse
start_registry registry
start_shaper line
lazy_image app gzip 1 10
publish app
truth app "$T/truth"
ref=$SHAPED/test/app:1
files=(usr/bin/marked usr/share/doc/1/45 usr/share/doc/3/130 usr/lib/upper3)
in_flight() { state "$1" | field 'sum(len(l["in_flight"]) for l in j["layers"])'; }

mode=$(modes | tail -n 1)
m=$M/first
mkdir -p "$M"/{first,imported,fresh,cleared,off,again}
store first
refuse 4 'no profile of that image.*first started' ifs profile show "$ref"
refuse 4 'test/app:1 .*not in the store.*imagefs pull' ifs profile show --pull never "$ref"
ifs mount -q --mode "$mode" "$ref" "$m" >/dev/null
for file in "${files[@]}"; do cmp "$T/truth/$file" "$m/$file"; done
needed=$(sum "$m" blob_bytes_needed) whole=$(sum "$m" blob_bytes)
[ "$needed" -gt 0 ] && [ "$needed" -lt $((whole * 4 / 10)) ] || fail "$needed of $whole bytes needed: no profile worth the name"
ifs stop   # as five seconds without a new read
log_says 'profile.recorded manifest=' || fail "nothing recorded: $(cat "$RUN/daemon.log")"
ifs profile show "$ref" >"$T/shown"
grep -qE '^read .* in the order of [0-9]+ parts' "$T/shown" && same "layers shown" 2 "$(grep -cE '^[0-9a-f]{12} ' "$T/shown")" ||
  { cat "$T/shown"; fail "what it shows"; }
ifs profile export "$ref" >"$T/profile.json"
same "version" 1 "$(field 'j["version"]' <"$T/profile.json")"
same "DiffIDs" "$(state "$m" | field 'sorted([l["diff_id"], l["data_bytes"]] for l in j["layers"])')" \
  "$(field 'sorted([l["diff_id"], l["data_bytes"]] for l in j["layers"])' <"$T/profile.json")"
same "parts within their layers" true "$(field 'len(j["parts"]) > 0 and all(0 <= b < e <= j["layers"][n]["data_bytes"] for n, b, e in j["parts"])' <"$T/profile.json")"
ifs profile show --json "$ref" | cmp - "$T/profile.json"

# What was read comes, nothing else does, and whoever reads it asks for nothing.
cold() {  # cold DIR: the image is mounted there, and nobody has read
  local where=$1 file
  wait_for 20 '[ "$(sum "$where" blob_bytes_present)" -ge "$needed" ] && [ "$(in_flight "$where")" = 0 ]' || fail "$where: $(state "$where")"
  same "$where: what came in advance" "$needed" "$(sum "$where" blob_bytes_present)"
  same "$where: reads until then" "0 0" "$(sum "$where" blob_bytes_needed) $(counter fill_waits)"
  [ "$(counter fill_spans_prefetched)" -gt 0 ] || fail "$where: the counter does not say so"
  for file in "${files[@]}"; do cmp "$T/truth/$file" "$where/$file"; done
  same "$where: reads that waited" 0 "$(counter fill_waits)"
}

# After an eviction, in the same store.
ifs pull -q --wait "$m" >/dev/null
wait_for 20 '[ "$(states "$m")" = complete ]' || fail "$(state "$m")"
ifs umount "$m"
wait_for 20 'ifs evict "$ref" >"$T/out" 2>&1' || fail "evict: $(cat "$T/out")"
ifs stop
ifs mount -q --mode "$mode" "$ref" "$M/again" >/dev/null
cold "$M/again"
ifs umount --all

# In every presentation, in a store that is told, before it has anything else of the image.
for mode in $(modes); do
  store "imported-$mode"
  ifs profile import "$ref" "$T/profile.json"
  forget_requests
  ifs mount -q --mode "$mode" "$ref" "$M/imported" >/dev/null
  ifs profile export "$ref" | cmp - "$T/profile.json"
  cold "$M/imported"
  # Requests are whole spans; those of the shaper's log are what the counters say.
  [ "$(sent app)" -ge $((needed - 100)) ] || fail "$(sent app) of $needed bytes were sent"
  lazy once "$SHAPER/requests" "$T/images/app" >/dev/null || fail "asked twice"
  ifs umount --all
done

# Cleared, and turned off.
ifs profile clear "$ref"
refuse 4 'no profile of that image' ifs profile show "$ref"
printf '{"version": 9}' >"$T/bad.json"
refuse 1 'profile of an unknown version' ifs profile import "$ref" "$T/bad.json"
$PY -c 'import json, sys
j = json.load(open(sys.argv[1])); j["parts"][0][2] = 1 << 50; print(json.dumps(j))' "$T/profile.json" >"$T/bad.json"
refuse 1 'impossible part' ifs profile import "$ref" "$T/bad.json"
refuse 4 'no profile of that image' ifs profile show "$ref"
store cleared
ifs profile import "$ref" <"$T/profile.json"
ifs profile clear "$ref"
ifs mount -q "$ref" "$M/cleared" >/dev/null
cat "$M/cleared/usr/lib/random" >/dev/null   # something else than before comes first
same "as when nobody knew" 0 "$(sum "$M/cleared" blob_bytes_present | awk -v n="$needed" '{print ($1 == n)}')"
ifs umount --all
ifs stop

# Published with the index.
store first
ifs index -q --push --profile "$SHAPED/test/app:1" >/dev/null
lazy manifest "$REGISTRY/test/app" "sha256-$(manifest_of app | cut -d: -f2).imagefs" 2>/dev/null |
  field 'sorted(l["mediaType"] for l in j["layers"])' | grep -q 'vnd.imagefs.profile.v1+json' || fail "no profile in the artifact"
configure '[fill]' 'background = false' 'hot_pack = false'
store fresh
ifs mount -q "$ref" "$M/fresh" >/dev/null
cold "$M/fresh"
ifs umount --all
configure '[fill]' 'background = false' '[profile]' 'enabled = false'
store off
ifs mount -q "$ref" "$M/off" >/dev/null
cmp "$T/truth/usr/lib/upper3" "$M/off/usr/lib/upper3"
same "what came in advance" 0 "$(state "$M/off" | field 'j["layers"][0]["blob_bytes_present"]')"
ifs umount --all
# Nor is one recorded, where none was published.
publish app
store off-too
ifs mount -q "$ref" "$M/off" >/dev/null
cmp "$T/truth/usr/lib/upper3" "$M/off/usr/lib/upper3"
ifs umount --all
ifs stop
refuse 4 'no profile' ifs profile show "$ref"
