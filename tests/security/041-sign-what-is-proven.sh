#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A key vouches for what this machine has proven: never for the table of contents that an image carries itself, nor
# for an index that somebody else published and lied in.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_root; need_fuse; need minisign
start_registry registry
minisign -G -W -p "$T/fleet.pub" -s "$T/fleet.key" >/dev/null
artifact() { lazy manifest "$REGISTRY/test/$1" "sha256-$(manifest_of "$1" | cut -d: -f2).imagefs" 2>/dev/null; }
tree_of() { find "$1" -mindepth 1 -printf '%P %s %m %u %g\n' | sort; }

# eStargz and zstd:chunked: shown by their own table. What is signed is the index of our own pass, once they are proven.
for name in estargz chunked; do
  lazy_image $name $name
  store $name
  mkdir -p "$M/$name"
  ifs mount -q "$REGISTRY/test/$name:1" "$M/$name" >/dev/null
  same "$name: source" in-image "$(state "$M/$name" | field 'j["layers"][0]["source"]')"
  ifs index -q --push --sign "$T/fleet.key" "$REGISTRY/test/$name:1" >"$T/out"
  grep -q '^signed by ' "$T/out" || fail "$name: $(cat "$T/out")"
  same "$name: layers" 2 "$(artifact $name | field 'sum("layer-index" in l["mediaType"] for l in j["layers"])')"
  # The mount goes on by the table, which is proven now.
  same "$name: source then" proven "$(state "$M/$name" | field 'j["layers"][0]["source"]')"
  ifs umount --all
  ifs stop
done

# A published index that gives a file another mode: shown until the layer is whole, and never signed.
lazy_image liar gzip
truth liar "$T/truth"
tree_of "$T/truth" >"$T/right"
publish liar
lazy lie "$REGISTRY/test/liar" "$(manifest_of liar)" mode
lie=$(artifact liar | field '[l["digest"] for l in j["layers"]]')
store liar
mkdir -p "$M/liar" "$M/after"
ifs mount -q "$REGISTRY/test/liar:1" "$M/liar" >/dev/null
[ "$(tree_of "$M/liar")" != "$(cat "$T/right")" ] || fail "the lie is not shown, so this test shows nothing"
for try in 1 2 3; do
  ifs index -q --push --sign "$T/fleet.key" "$REGISTRY/test/liar:1" >"$T/out" 2>"$T/err" && break
  grep -qE 'mistake, or lied|DiffID' "$T/err" || fail "another error: $(cat "$T/err")"
  ! artifact liar | grep -q dev.imagefs.signature || fail "a lie is signed"
  ifs umount "$M/liar" 2>/dev/null || true
done
grep -q '^signed by ' "$T/out" || fail "the genuine index is never signed: $(cat "$T/err")"
[ "$(artifact liar | field '[l["digest"] for l in j["layers"]]')" != "$lie" ] || fail "a lie is signed"
store after
ifs mount -q "$REGISTRY/test/liar:1" "$M/after" >/dev/null
same "layers shown by the signed index" 2 "$(counter layers_lazy)"
# Without device numbers until it is proven; the next mount has them.
ifs pull -q --wait "$M/after" >/dev/null
ifs umount "$M/after"
ifs mount -q "$REGISTRY/test/liar:1" "$M/after" >/dev/null
tree_of "$M/after" | diff "$T/right" - >"$T/diff" || fail "the signed index lies: $(head -5 "$T/diff")"
