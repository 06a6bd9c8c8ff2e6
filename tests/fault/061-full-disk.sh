#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# alone
# A store whose file system is full to the last block: the daemon starts, every command works that needs
# no room, readers of what fills are served, a pull says why it fails and leaves nothing, and the same
# daemon is right once there is room.
. "$(dirname "$0")/../lib/lib.sh"
. "$LIB/lazy.sh"
need_root; need_fuse
start_registry registry
big_image small c=2; push "$T/images/small" test/small:1; unpacked "$T/images/small" "$T/truth-small"
big_image big a=20 b=45; push "$T/images/big" test/big:1
lazy_image app gzip 5 24; truth app "$T/truth"; publish app
app=$REGISTRY/test/app:1 small=$REGISTRY/test/small:1 big=$REGISTRY/test/big:1
configure '[fill]' 'background = false' 'deadline = "8s"'

truncate -s 72M "$T/disk"; mkfs.ext4 -q -m 0 "$T/disk"
mkdir "$T/fs" "$M/small" "$M/more"; mount -o loop "$T/disk" "$T/fs"
ROOT=$T/fs/root RUN=$T/run-full
ours() { daemons_of "$RUN"; }
free() { df -k --output=avail "$T/fs" | tail -1; }
# What was removed before may be given back meanwhile.
full() {
  local try
  for try in 1 2 3 4 5; do
    dd if=/dev/zero of="$T/fs/hog" bs=1M oflag=append conv=notrunc 2>/dev/null || true
    dd if=/dev/zero of="$T/fs/hog" bs=4k oflag=append conv=notrunc 2>/dev/null || true
    sync -f "$T/fs"
    [ "$(free)" -ge 64 ] || return 0
  done
  fail "the disk is not full: $(free) KiB"
}
room() { rm -f "$T/fs/hog"; }
right() { $PY "$LIB/tree.py" compare "$1" "$2" --loose-root || fail "wrong tree: $2"; }
# some_right DIR: every ninth file has its bytes.
some_right() {
  (cd "$T/truth" && find usr etc -type f | sort | awk 'NR % 9 == 0') | while read -r file; do
    timeout 30 cmp "$T/truth/$file" "$1/$file" || fail "$1/$file"
  done
}

# ---- a pull that does not fit
refuse 10 'space|full|stay free' ifs pull -q "$big"
same "left of what a failed pull did not finish" "" "$(find "$ROOT/blobs" "$ROOT/layers" -name 'tmp-*' -o -path '*/blobs/*')"
ifs pull -q "$small" >/dev/null

for mode in $(modes); do
  # ---- lazy reads while it is full
  dir=$M/lazy-$mode; mkdir "$dir"
  ifs mount -q --mode "$mode" --deadline 8 "$app" "$dir" >/dev/null
  full
  before=$(state "$dir" | field 'j["layers"][0]["blob_bytes_present"]')
  some_right "$dir"
  grep -qE 'No space left|free space left' <<<"$(state "$dir")" || fail "$mode: status does not say why"
  # What waits for all of it is told.
  refuse 10 'No space left|free space left' timeout 60 "$IMAGEFS" --root "$ROOT" --run "$RUN" pull -q --wait "$dir"
  [ "$(state "$dir" | field 'j["layers"][0]["blob_bytes_present"]')" -ge "$before" ] || fail "$mode: present"

  # ---- the other commands
  ifs mount -q --mode "$mode" "$small" "$M/small" >/dev/null || fail "$mode: mount of what is here"
  right "$T/truth-small" "$M/small"
  ifs ls >/dev/null; ifs images >/dev/null; ifs status >/dev/null

  # ---- a daemon that starts on the full disk, with its reserve and without
  for round in reserve none; do
    slay $(ours)
    if [ $round = none ]; then rm -f "$ROOT/db/reserve"; full; fi
    ifs ls >"$T/list" || fail "$mode, $round: the daemon does not start"
    grep -q "$dir" "$T/list" || fail "$mode, $round: $dir is not listed"
    right "$T/truth-small" "$M/small"
    some_right "$dir"
    full
  done
  ifs umount "$M/small" || fail "$mode: umount"
  same "$mode: mounts at small" "" "$(mounts_below "$M/small")"

  # ---- there is room again, for the same process
  pid=$(ours)
  room
  some_right "$dir"
  ifs pull -q --wait "$dir" >/dev/null
  some_right "$dir"
  same "$mode: daemon" "$pid" "$(ours)"
  ifs umount "$dir"
  ifs rm "$app" >/dev/null
done

# ---- evicting makes room
ifs pull -q "$app" >/dev/null
without_table() { find "$ROOT/layers" -mindepth 1 -maxdepth 1 -type d '!' -exec test -e '{}/access' ';' -print; }
wait_for 30 '[ -z "$(without_table)" ]' || fail "no span table: $(without_table)"
full
ifs evict "$app" >/dev/null || fail "evict"
wait_for 15 '[ "$(free)" -gt 10000 ]' || fail "$(free) KiB free after evict"
room

# ---- removing makes room on a disk that has none, also without a reserve
ifs pull -q "$app" >/dev/null
for round in running started; do
  full
  if [ $round = started ]; then
    slay $(ours); rm -f "$ROOT/db/reserve"; full
  fi
  ifs rm "$([ $round = running ] && echo "$app" || echo "$small")" >/dev/null || fail "$round: rm"
  wait_for 15 '[ "$(free)" -gt 1500 ]' || fail "$round: $(free) KiB free after rm"
done
ifs stop
same "images after the next start" 1 "$(ifs images | wc -l)"
room

# ---- nothing that was acknowledged is lost when the daemon is killed on the full disk
ifs pull -q "$small" >/dev/null
full
: >"$T/mounted"
for i in $(seq 40); do
  mkdir -p "$M/more/$i"
  if ifs mount -q "$small" "$M/more/$i" >/dev/null 2>"$T/err"; then
    echo "$M/more/$i" >>"$T/mounted"
  else
    grep -q '^imagefs: .*No space left' "$T/err" || fail "mount $i: $(cat "$T/err")"
  fi
done
slay $(ours)
ifs ls >"$T/list"
while read -r dir; do grep -q "$dir " "$T/list" || fail "$dir was acknowledged and is lost"; done <"$T/mounted"
room
ifs umount --all
same "mounts in the end" "" "$(mounts_below "$M/more")"

# ---- a file system that becomes read-only shows what it has
ifs mount -q --mode fuse "$small" "$M/small" >/dev/null
slay $(ours)
wait_for 10 'mount -o remount,ro "$T/fs" 2>/dev/null' || fail "the file system is in use"
ifs ls | grep -q "$M/small" || fail "read-only: not listed"
right "$T/truth-small" "$M/small"
refuse 1 'read-only' ifs pull -q "$big"
mount -o remount,rw "$T/fs"
ifs pull -q "$app" >/dev/null || fail "writable again"
ifs umount --all; ifs stop
