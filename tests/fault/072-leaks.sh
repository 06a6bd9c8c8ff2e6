#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# long
# Cycles of mount, umount, umount(8), rm, Ctrl-C and kill -9 in random order leave nothing behind: at the end, without
# mounts and images, no layer, tree, download or directory of a writable mount is left, and df, du and the records
# agree. CYCLES=300 makes it longer.
. "$(dirname "$0")/../lib/lib.sh"
. "$LIB/lazy.sh"
need_root; need_fuse
start_registry registry
lazy_image lazy gzip 11 4; publish lazy
big_image eager a=3 b=1; push "$T/images/eager" test/eager:1
configure '[fill]' 'quiet = "1s"'
RANDOM=${SEED:-7}
mkdir "$M/0" "$M/1" "$M/2"
mounted() { [ -n "$(mounts_below "$M/$1")" ]; }
for cycle in $(seq "${CYCLES:-40}"); do
  n=$((RANDOM % 3)) name=$([ $((RANDOM % 2)) = 0 ] && echo lazy || echo eager)
  ref=$REGISTRY/test/$name:1 options=$([ $((RANDOM % 3)) = 0 ] && echo --rw || true)
  case $((RANDOM % 8)) in
    0 | 1) mounted $n || ifs mount -q $options "$ref" "$M/$n" >/dev/null || fail "$cycle: mount $options $ref" ;;
    2) mounted $n && ifs umount "$M/$n" ;;
    3) mounted $n && umount "$M/$n" ;;
    4) ifs rm --force "$ref" >/dev/null ;;
    5) ifs rm "$ref" >/dev/null 2>&1 ;;
    6)
      timeout -s INT 0.$((RANDOM % 10))1 "$IMAGEFS" --root "$ROOT" --run "$RUN" pull -q "$ref" >/dev/null 2>&1
      ;;
    7) slay $(daemons_of "$RUN") ;;
  esac || true
  [ -z "$options" ] || ! mounted $n || dd if=/dev/zero of="$M/$n/written" bs=64k count=1 2>/dev/null || true
done
ifs umount --all
ifs ls --json | field '" ".join(m["directory"] for m in j)' | grep -q . && ifs umount $(ifs ls --json | field '" ".join(m["directory"] for m in j)')
for name in lazy eager; do ifs rm --force "$REGISTRY/test/$name:1" >/dev/null; done
ifs prune >/dev/null
left() { find "$ROOT/layers" "$ROOT/chains" "$ROOT/upper" "$ROOT/blobs" -mindepth 1; }
wait_for 30 '[ -z "$(left)" ]' || fail "left: $(left)"
same "mounts" "" "$(mounts_below "$M")"
near() { [ $(($2 - $3)) -le $4 ] && [ $(($3 - $2)) -le $4 ] || fail "$1: $2 and $3"; }
near "df and du" "$(ifs df --json | field 'sum(k["disk_bytes"] for k in j["kinds"])')" "$(du -s -B1 "$ROOT" | cut -f1)" 100000
same "layers that the records know" 0 "$(ifs status --json | field 'len(j["layers"])')"
ifs check --json | field "j[\"findings\"]" | grep -qx "\[\]" || fail "check: $(ifs check)"
