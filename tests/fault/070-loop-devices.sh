#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Complete images on a store that the kernel mounts no EROFS from files of (tmpfs is one): it reads loop devices over
# them. The daemon is killed and stopped, images are removed, the disk is full, files are damaged, and in the end no
# loop device is left.
. "$(dirname "$0")/../lib/lib.sh"
. "$LIB/lazy.sh"
need_root; need_fuse
[ -c /dev/loop-control ] || skip "no /dev/loop-control"
DAMAGE=$LIB/damage.py
configure '[fill]' 'background = false'
mkdir "$ROOT"
mount -t tmpfs -o size=200m tmpfs "$ROOT"
start_registry registry
lazy_image app gzip 5 4
publish app
truth app "$T/truth"
ref=$REGISTRY/test/app:1
image plain
mkdir -p "$M"/{a,b,c,fills,rw,m}
# Over files of this store; those of the probe have gone when the daemon answers.
devices() { { cat /sys/block/loop*/loop/backing_file 2>/dev/null || true; } | grep -c "^$ROOT/" || true; }
mode_at() { ifs ls --json | field "[m['mode'] for m in j if m['directory'] == '$1'][0]"; }
left() { wait_for 20 "[ \"\$(devices)\" = $1 ]" || fail "$2: $(devices) loop devices instead of $1"; }
right() { $PY "$DAMAGE" read "$T/truth" "$1" >"$T/read" || fail "$2: $(cat "$T/read")"; }

# What is not here yet is FUSE, and is asked for by the kernel once it is.
ifs mount -q "$ref" "$M/fills" >/dev/null
same "while it fills" fuse "$(mode_at "$M/fills")"
grep -q 'kernel_presentation by=loop_devices' "$RUN/daemon.log" || skip "no loop devices: $(grep -o 'kernel_presentation.*' "$RUN/daemon.log")"
! said=$(ifs mount -q --mode kernel "$ref" "$M/a" 2>&1) || fail "the kernel shows what is not here"
[[ $said = *'imagefs pull'* ]] || fail "the refusal does not say what to do: $said"
same "devices" 0 "$(devices)"
ifs pull -q --wait "$M/fills" >/dev/null
wait_for 30 '[ "$(states "$M/fills")" = complete ]' || fail "never complete"
ifs mount -q "$ref" "$M/a" >/dev/null
same "when it is here" kernel "$(mode_at "$M/a")"
same "an index and two layers" 3 "$(devices)"
right "$M/a" "from loop devices"; right "$M/fills" "by FUSE"
ifs umount "$M/fills"

# More mounts of it, and a writable one, need no more devices.
ifs mount -q "$ref" "$M/b" >/dev/null
ifs mount -q --rw "$ref" "$M/rw" >/dev/null
echo kept >"$M/rw/written"
same "three mounts of one image" 3 "$(devices)"

# Without a daemon, and with the next one.
for how in kill stop kill; do
  if [ $how = kill ]; then slay $(daemons_of "$RUN"); else ifs stop; wait_for 20 '[ -z "$(daemons_of "$RUN")" ]' || fail "still running"; fi
  same "devices after $how" 3 "$(devices)"
  right "$M/a" "without a daemon"
  same "mounts listed" 3 "$(ifs ls --json | field 'len(j)')"
  same "all by the kernel" '["kernel"]' "$(ifs ls --json | field 'sorted({m["mode"] for m in j})')"
  same "written" kept "$(cat "$M/rw/written")"
  same "devices with the next daemon" 3 "$(devices)"
done
ifs mount -q "oci:$T/images/plain" "$M/c" >/dev/null
more=$(devices)
[ "$more" -gt 3 ] || fail "another image needs no devices"

# Killed while many mount.
for round in 1 2 3; do
  for i in 1 2 3 4; do
    mkdir -p "$M/m/$i"
    timeout 60 "$IMAGEFS" --root "$ROOT" --run "$RUN" mount -q "oci:$T/images/plain" "$M/m/$i" >/dev/null 2>&1 &
    mounting[$i]=$!
  done
  slay $(daemons_of "$RUN")
  for i in 1 2 3 4; do wait "${mounting[$i]}" || true; done
  ifs ls >/dev/null
  for i in 1 2 3 4; do ifs umount "$M/m/$i" >/dev/null 2>&1 || true; done
  left "$more" "after a kill among mounts"
done

# umount(8), with and without a daemon; what is taken away last takes the devices.
umount "$M/c"
left 3 "after umount(8)"
ifs mount -q "oci:$T/images/plain" "$M/c" >/dev/null
ifs stop
wait_for 20 '[ -z "$(daemons_of "$RUN")" ]' || fail "still running"
umount "$M/c"
same "listed" 3 "$(ifs ls --json | field 'len(j)')"
left 3 "after umount(8) without a daemon"

# The data and the tree are written to while they are shown, and come again into the same files.
data=$(ls -S "$ROOT"/layers/*/data | head -1)
same "source of the mount" "$ref" "$(findmnt -n -o SOURCE --mountpoint "$M/a")"
chain=$(ifs inspect "$ref" --json | field 'j["chain_id"]')
chain=$ROOT/chains/${chain#sha256:}
[ -s "$chain" ] || fail "there is no index: $chain"
$PY "$DAMAGE" flip "$data" 100 3
wait_for 30 "log_says 'layer.damaged' && ifs status --json | field 'all(l[\"state\"] == \"complete\" for l in j[\"layers\"])' | grep -q true" || fail "the data is not repaired"
$PY "$DAMAGE" flip "$chain" 200 4
wait_for 30 "log_says chain.repaired" || fail "the tree is not repaired"
echo 3 >/proc/sys/vm/drop_caches
right "$M/a" "after damage"
same "devices" 3 "$(devices)"

# The image goes from the store, and its readers go on.
ifs rm "$ref" >/dev/null
echo 3 >/proc/sys/vm/drop_caches
right "$M/b" "a removed image"

# A full disk is no reason not to show what is here, nor to leave devices.
dd if=/dev/zero of="$ROOT/filler" bs=1M >/dev/null 2>&1 || true
slay $(daemons_of "$RUN")
right "$M/a" "full disk, no daemon"
same "mounts listed on a full disk" 3 "$(ifs ls --json | field 'len(j)')"
right "$M/a" "full disk"
rm "$ROOT/filler"

ifs umount "$M/a"; ifs umount "$M/b"; ifs umount --all
nothing_left "$M"
left 0 "in the end"
ifs stop
umount "$ROOT" || fail "somebody uses the store: $(ls "$ROOT")"
