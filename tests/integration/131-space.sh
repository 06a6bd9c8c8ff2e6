#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Where the space is and how it comes back: images removed while they are mounted, interrupted pulls, pins, prune, df
# (which agrees with du), images that only a runtime holds, and words for what was not given back.
. "$(dirname "$0")/../lib/lib.sh"
. "$LIB/lazy.sh"
need_root; need_fuse
start_registry registry
big_image big a=6; push "$T/images/big" test/big:1
big_image layers x=2 y=1
push "$T/images/layers" test/layers:1
ref=$REGISTRY/test/layers:1
layers_left() { find "$ROOT/layers" -mindepth 1 -maxdepth 1 | wc -l; }
df_of() { ifs df --json | field "sum(k['$1'] for k in j['kinds'] if k['kind'].startswith('$2'))"; }
none_left() { [ "$(layers_left)" = 0 ] && [ "$(ls "$ROOT/chains" | wc -l)" = 0 ]; }

# ---- removed while it is mounted: it says why nothing is given back, and gives it back after the unmount
mkdir "$M/a"
ifs mount -q "$ref" "$M/a" >/dev/null
same "state and user" "complete $M/a" "$(ifs images --json | field 'j[0]["state"].replace("written", "complete") + " " + j[0]["used_by"][0]["name"]')"
ifs rm "$ref" >"$T/out" 2>"$T/err"
same "what rm says" "0 B freed" "$(cat "$T/out")"
grep -q "no longer listed.*stay until the mount $M/a ends" "$T/err" || fail "rm does not say why: $(cat "$T/err")"
(cd "$M/a" && find . -type f -exec cat {} + >/dev/null) || fail "the mount is broken"
[ "$(df_of count layers-unlisted)" -gt 0 ] || fail "df does not know the layers: $(ifs df)"
ifs umount "$M/a"
wait_for 30 none_left || fail "left after the unmount: $(ls "$ROOT/layers" "$ROOT/chains")"
# The same with umount(8), and with a daemon that was killed in between.
ifs mount -q "$ref" "$M/a" >/dev/null
ifs rm "$ref" 2>/dev/null >/dev/null
slay $(daemons)
ifs ls >/dev/null
(cd "$M/a" && find . -type f -exec cat {} + >/dev/null) || fail "the mount is broken after a restart"
umount "$M/a"
wait_for 60 none_left || fail "left after umount(8): $(ls "$ROOT/layers" "$ROOT/chains")"

# ---- rm --force
refuse 4 'no image .*test/layers:1' ifs rm "$ref"
ifs rm --force "$ref" >/dev/null
ifs mount -q "$ref" "$M/a" >/dev/null
ifs pin "$ref"
refuse 6 'is pinned; unpin it first, or .* --force' ifs rm "$ref"
ifs rm --force --json "$ref" >"$T/out"
[ "$(field 'j["freed_bytes"]' <"$T/out")" -gt 0 ] || fail "rm --force: $(cat "$T/out")"
[ -z "$(mounts_below "$M")" ] || fail "rm --force left a mount"
same "mounts" '[]' "$(ifs ls --json | field j)"

# ---- Ctrl-C: what came is kept for the next attempt, shown, and given back by prune
start_proxy proxy
rules "[{\"path\": \"blobs\", \"hold\": \"$T/go\", \"cut_hold\": 3000000}]"
setsid "$IMAGEFS" --root "$ROOT" --run "$RUN" pull -q "$PROXY/test/big:1" >"$T/pull.out" 2>&1 & pull=$!
wait_for 20 '[ "$(find "$ROOT/blobs" -type f -size +1k | wc -l)" -ge 1 ]' || fail "no download began"
kill -INT $pull; wait $pull || true
wait_for 10 '[ "$(df_of reclaimable_bytes partial)" -gt 0 ]' || fail "df shows nothing: $(ifs df)"
ifs prune --dry-run --json >"$T/dry"
[ "$(df_of reclaimable_bytes partial)" -gt 0 ] || fail "a dry run removes"
ifs prune --older 1h >/dev/null
[ "$(df_of reclaimable_bytes partial)" -gt 0 ] || fail "what is new is removed"
ifs prune --json >"$T/pruned"
same "a dry run says what happens" "$(field 'j["freed_bytes"]' <"$T/dry")" "$(field 'j["freed_bytes"]' <"$T/pruned")"
same "partial downloads" 0 "$(df_of disk_bytes partial | $PY -c 'print(int(int(input()) > 4096))')"
none_left || fail "left after prune: $(ls "$ROOT/layers" "$ROOT/blobs")"

# ---- what an interrupted pull left is not said to be fetched by the next one
setsid "$IMAGEFS" --root "$ROOT" --run "$RUN" pull -q "$PROXY/test/big:1" >"$T/pull.out" 2>&1 & pull=$!
wait_for 20 '[ "$(find "$ROOT/blobs" -type f -size +1k | wc -l)" -ge 1 ]' || fail "no download began"
kill -INT $pull; wait $pull || true
wait_for 10 '[ "$(df_of reclaimable_bytes partial)" -gt 1000000 ]' || fail "df shows nothing: $(ifs df)"
left=$(df_of reclaimable_bytes partial)
touch "$T/go"
ifs pull -q --json "$PROXY/test/big:1" >"$T/pulled"
fetched=$(field 'j["fetched_bytes"]' <"$T/pulled") size=$(field 'sum(l["bytes"] for l in j["layers"])' <"$T/pulled")
[ "$fetched" -gt 0 ] && [ "$fetched" -le $((size - left + 100000)) ] || fail "$fetched bytes were fetched of $size, and $left were here"

# ---- status of a mount: compressed bytes, in every state
ifs mount -q "$PROXY/test/big:1" "$M/a" >/dev/null
for again in no yes; do
  [ $again = no ] || slay $(daemons)
  same "compressed bytes" "$size $size" "$(ifs status --json "$M/a" | field 'str(sum(l["blob_bytes"] for l in j["layers"])) + " " + str(sum(l["blob_bytes_present"] for l in j["layers"]))')"
done
ifs umount "$M/a"
ifs rm "$PROXY/test/big:1" >/dev/null

# ---- prune --all: not what is mounted, pinned, or could not be fetched again
cp -a "$T/images/layers" "$T/local"
ifs pull -q "oci:$T/local" >/dev/null
ifs pull -q "$ref" >/dev/null
ifs pull -q "$REGISTRY/test/big:1" >/dev/null
rm -rf "$T/local"
ifs pin "$REGISTRY/test/big:1"
ifs images >"$T/images.txt"
grep -q 'test/big:1.*pinned' "$T/images.txt" || fail "images does not show the pin: $(cat "$T/images.txt")"
ifs mount -q "$ref" "$M/a" >/dev/null
ifs prune --all >"$T/out"
same "images after prune --all" 3 "$(ifs images --json | field 'len(j)')"
ifs umount "$M/a"
ifs unpin "$REGISTRY/test/big:1"
refuse 4 'is not pinned' ifs unpin "$REGISTRY/test/big:1"
ifs prune --all --older 1h >/dev/null
same "images after prune --all --older 1h" 3 "$(ifs images --json | field 'len(j)')"
ifs prune -a --dry-run --json >"$T/dry"
[ "$(field 'j["layers"] > 0 and j["freed_bytes"] > 0' <"$T/dry")" = true ] || fail "a dry run counts no layers: $(cat "$T/dry")"
ifs prune -a >"$T/out"
grep -q 'test/big:1: removed' "$T/out" || fail "prune does not name what it removed: $(cat "$T/out")"
same "images left" "oci:$T/local" "$(ifs images --json | field '" ".join(i["reference"] for i in j)')"
ifs rm "oci:$T/local" >/dev/null
none_left || fail "left: $(ls "$ROOT/layers")"

# ---- df, images and du agree, within a block a file
ifs pull -q "$ref" >/dev/null
ifs pull -q "$REGISTRY/test/big:1" >/dev/null
du_of() { du -s -B1 "$@" | awk '{s += $1} END {print s}'; }
near() { [ $(($2 - $3)) -le $4 ] && [ $(($3 - $2)) -le $4 ] || fail "$1: $2 and $3"; }
settled() { [ "$(ifs status --json | field 'all(l["state"] == "complete" for l in j["layers"])')" = true ]; }
wait_for 30 settled || fail "never durable"
near "df and du" "$(df_of disk_bytes '')" "$(du_of "$ROOT")" 200000
near "layers in df and du" "$(($(df_of disk_bytes layers-) + $(df_of disk_bytes indexes)))" "$(du_of "$ROOT/layers")" 100000
near "images and du" "$(ifs images --json | field 'sum(i["disk_bytes"] for i in j)')" "$(du_of "$ROOT/layers")" 100000
ifs df >"$T/out"
grep -q 'limit: none (store.limit)' "$T/out" || fail "df: $(cat "$T/out")"

# ---- what only a runtime holds
if [ -n "${PODMAN_TOO:-1}" ]; then
  ifs add -q "$ref" >/dev/null 2>"$T/err" || fail "add: $(cat "$T/err")"
  ifs rm "$ref" >"$T/out" 2>"$T/err"
  grep -q 'stay until podman' "$T/err" || fail "rm does not name podman: $(cat "$T/err")"
  same "images" 1 "$(ifs images --json | field 'len(j)')"
  same "images --all" "podman" "$(ifs images --all --json | field '[i for i in j if not i["listed"]][0]["used_by"][0]["kind"]')"
fi

# ---- wrong settings
for bad in 'limit = 5' 'limit = "many"' 'limit = "0"' 'limit = "101%"' 'high = "x"' 'reserve = "-1"' 'keep_partial = "1"'; do
  printf '[store]\n%s\n' "$bad" >"$T/bad.toml"
  refuse 7 'bad.toml:2: store\.' "$IMAGEFS" --check-config "$T/bad.toml"
done
printf '[store]\nlow = "95%%"\nhigh = "90%%"\n' >"$T/bad.toml"
refuse 7 'store.low must be below store.high' "$IMAGEFS" --check-config "$T/bad.toml"
