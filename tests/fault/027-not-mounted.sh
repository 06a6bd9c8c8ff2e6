#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What cannot come back is listed with its cause and comes back when it can: the directory is away, another one is in
# its place, the layers are lost with the registry away. What was written stays until it is given up.
. "$(dirname "$0")/../lib/lib.sh"
. "$LIB/lazy.sh"
need_root; need_fuse
image plain whiteouts
start_registry registry
start_shaper line
lazy_image app gzip 3 2
publish app
state() { ifs ls --json | field "[m['state'] for m in j if m['directory'] == '$1'] or ['none']" | tr -d '[]"'; }
reason() { ifs ls --json | field "''.join(m['reason'] for m in j if m['directory'] == '$1')"; }
lost() { slay $(daemons); for mount in $(mounts_below "$M") $(mounts_below "$RUN"); do umount -l "$mount"; done; }
there() { wait_for 60 "state '$1' | grep -qxE 'mounted|filling'" || fail "$1 is not there again: $(ifs ls)"; }

# ---- The directory is away for a while.
mkdir -p "$M/disk/m"
ifs mount -q --mode fuse --rw --upper "$T/up" "oci:$T/images/plain" "$M/disk/m" >/dev/null
echo kept >"$M/disk/m/written"
lost
mv "$M/disk" "$M/away"
same "state" "not mounted" "$(state "$M/disk/m")"
[[ $(reason "$M/disk/m") == *"does not exist"* ]] || fail "reason: $(reason "$M/disk/m")"
ifs ls | grep -q "not mounted: .*does not exist" || fail "ls does not say it: $(ifs ls)"
ifs status "$M/disk/m" | grep -q "not mounted" || fail "status does not say it"
refuse 4 'is not mounted' ifs pull -q --wait "$M/disk/m"
mv "$M/away" "$M/disk"
there "$M/disk/m"
same "written" kept "$(cat "$M/disk/m/written")"

# ---- Another one in its place, then the right one again, found by the next daemon.
lost
mv "$M/disk/m" "$M/disk/right"
mkdir "$M/disk/m"
[[ $(reason "$M/disk/m") == *"another directory"* ]] || fail "reason: $(reason "$M/disk/m")"
same "mounted on another one" "" "$(mounts_below "$M/disk")"
slay $(daemons)
rmdir "$M/disk/m"
mv "$M/disk/right" "$M/disk/m"
there "$M/disk/m"
ifs umount "$M/disk/m"

# ---- Layers that a crash of the machine took, with the registry away. (Files that are missing are such.)
mkdir "$M/lazy"
ifs mount -q --mode fuse "$SHAPED/test/app:1" "$M/lazy" >/dev/null
lost
rm -rf "$ROOT"/layers/* "$ROOT"/chains/*
shape rules '[{"status":503}]' >/dev/null
same "state" "not mounted" "$(state "$M/lazy")"
shape rules '[]' >/dev/null
there "$M/lazy"
[ -n "$(ls "$M/lazy")" ] || fail "an empty tree came back"
# An idle daemon ends, mounted or not; the next one goes on.
lost
rm -rf "$ROOT"/layers/* "$ROOT"/chains/*
shape rules '[{"status":404}]' >/dev/null
timeout 60 "$IMAGEFS" --root "$ROOT" --run "$RUN" daemon --idle-exit 1 2>"$T/daemon.log" || fail "the daemon stays"
shape rules '[]' >/dev/null
rm -f "$ROOT"/blobs/*  # what it had begun to fetch, for whoever would ask for the same once more
there "$M/lazy"
ifs umount "$M/lazy"

# ---- `mount` of the same image tries at once, another one is refused, `umount` gives it up.
mkdir "$M/rw"
ifs mount -q --mode fuse --rw "oci:$T/images/plain" "$M/rw" >/dev/null
echo kept >"$M/rw/written"
upper=$(ifs ls --json | field "j[0]['upper']")
for how in again given-up; do
  slay $(daemons)
  rm -rf "$ROOT"/layers/* "$ROOT"/chains/*
  mv "$T/images/plain" "$T/images/gone"
  same "state" "not mounted" "$(state "$M/rw")"
  [ -d "$upper" ] || fail "what was written is gone"
  refuse 6 'the changes to' ifs mount -q --rw "oci:$T/images/whiteouts" "$M/rw"
  mv "$T/images/gone" "$T/images/plain"
  case $how in
    again)
      ifs mount -q --mode fuse --rw "oci:$T/images/plain" "$M/rw" >/dev/null 2>&1 || there "$M/rw"
      same "written" kept "$(cat "$M/rw/written")" ;;
    given-up)
      ifs umount "$M/rw"
      [ ! -d "$upper" ] || fail "what was written stays" ;;
  esac
done
same "nothing is listed" "[]" "$(ifs ls --json | tr -d ' \n')"
nothing_left "$M/rw"

# ---- umount(8) of a writable mount: listed until it is given up or mounted on anew.
for how in give-up anew; do
  ifs mount -q --rw "oci:$T/images/plain" "$M/rw" >/dev/null
  upper=$(ifs ls --json | field "j[0]['upper']")
  echo x >"$M/rw/written"
  umount "$M/rw"
  wait_for 20 "[ \"\$(state '$M/rw')\" = 'not mounted' ]" || fail "not noticed"
  [[ $(reason "$M/rw") == *"another program"* ]] || fail "reason: $(reason "$M/rw")"
  same "kept" x "$(cat "$upper/upper/written")"
  if [ $how = anew ]; then
    ifs mount -q --rw "oci:$T/images/plain" "$M/rw" >/dev/null
    [ ! -e "$M/rw/written" ] || fail "it went on with what an unmount has ended"
  fi
  ifs umount "$M/rw"
  [ ! -d "$upper" ] || fail "$how: what was written stays"
done
same "uppers" "" "$(ls "$ROOT/upper")"
