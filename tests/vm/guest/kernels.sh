# SPDX-License-Identifier: Apache-2.0
# What every kernel has to do, in the mode that `auto` picks.
say "kernel=$(uname -r) $(fuse_init) up=$(cut -d' ' -f1 /proc/uptime)"
disk
app=$REGISTRY/test/app:1 other=$REGISTRY/test/other:1
mkdir -p /m/a /m/b /m/rw

# Before its bytes are here.
begin=$(now)
must ifs mount -q "$app" /m/a
say "mode=$(mode_of /m/a) type=$(type_of /m/a) mounted=$(since "$begin")"
[[ $(state_of /m/a) = filling* ]] || fail "a new mount has all its bytes: $(state_of /m/a)"
cat /m/a/usr/lib/random >/dev/null || fail "a read that fills"
begin=$(now)
kill_daemon
back /m/a
say "killed while it fills, back=$(since "$begin")"
begin=$(now)
right "the mount that fills" /m/a app.truth
say "read while it fills=$(since "$begin")"
must ifs pull -q --wait /m/a
[[ $(state_of /m/a) = mounted* ]] || fail "not all is here: $(state_of /m/a)"

# Whether the kernel takes the same index and layers from loop devices (docs/adr/0013-loop-devices.md). A layer that was
# shown before it was proven may be here under two names; the lower one is the large one.
from_loops() {
  local upper lower
  lower=$(ls -S /disk/store/layers/*/data | head -n 1) upper=$(ls -rS /disk/store/layers/*/data | head -n 1)
  losetup -r /dev/loop1 "$(ls /disk/store/chains/* | head -n 1)" && losetup -r /dev/loop2 "$lower" &&
    losetup -r /dev/loop3 "$upper" && mount -t erofs -o ro,device=/dev/loop2,device=/dev/loop3 /dev/loop1 /m/loop
}
mkdir -p /m/loop
if from_loops 2>/dev/null; then
  right "by loop devices" /m/loop app.truth
  umount /m/loop
  say "EROFS from loop devices=yes"
else
  say "EROFS from loop devices=no: $(dmesg | grep -i erofs | tail -n 1)"
fi
for file in /dev/loop[1-9]; do losetup -d "$file" 2>/dev/null; done

# The daemon is killed, stopped and started again under a mount.
for how in kill stop; do
  begin=$(now)
  if [ $how = kill ]; then kill_daemon; else must ifs stop; fi
  back /m/a
  say "$how of the daemon, back=$(since "$begin")"
  right "after $how" /m/a app.truth
done

# A mount of what is complete; what shows it when there is no daemon and no network.
must ifs umount /m/a
! mounted /m/a || fail "still mounted"
must ifs mount -q --eager "$other" /m/b
must ifs mount -q --eager "$app" /m/a
same "the mode of what is complete" kernel "$(mode_of /m/a)"
begin=$(now)
right "complete" /m/a app.truth
say "read of what is complete=$(since "$begin")"
right "complete, zstd" /m/b other.truth
devices=$(loop_devices)
if grep -q 'kernel_presentation by=loop_devices' /run/imagefs/daemon.log; then
  # An index and two layers each.
  same "loop devices" 6 "$devices"
else
  same "loop devices where files are mounted" 0 "$devices"
fi
say "loop devices=$devices"
network down
must ifs stop
same "the type of the mount" erofs "$(type_of /m/a)"
echo 3 >/proc/sys/vm/drop_caches
right "without a daemon" /m/a app.truth
say "read without a daemon"
back /m/a
kill_daemon
right "after kill -9" /m/a app.truth
back /m/a
same "loop devices after a stop and a kill" "$devices" "$(loop_devices)"
right "offline" /m/a app.truth
right "offline, zstd" /m/b other.truth
network up

# A writable one.
must ifs mount -q --rw "$app" /m/rw
echo mine >/m/rw/etc/mine && rm -r /m/rw/usr/lib && echo more >>/m/rw/etc/owned || fail "write"
must ifs stop
back /m/rw
same "what was written" "mine mine more no" \
  "$(echo $(cat /m/rw/etc/mine /m/rw/etc/owned) $([ -e /m/rw/usr/lib ] || echo no))"
right "below the writable one" /m/a app.truth
say "written"

# umount(8) of one, and the devices of what only that one showed.
umount /m/b || fail "umount of /m/b"
wait_for 20 "[ -z \"\$(state_of /m/b)\" ] && [ \$(loop_devices) = $((devices / 2)) ]" ||
  fail "after umount(8): $(state_of /m/b), loop devices: $(loop_devices)"
must ifs mount -q "$other" /m/b
right "mounted anew" /m/b other.truth
same "loop devices of what is mounted anew" "$devices" "$(loop_devices)"

for dir in /m/rw /m/a /m/b; do must ifs umount $dir; ! mounted $dir || fail "$dir is still mounted"; done
said=$(ifs check 2>&1) || fail "check: $said"
must ifs rm "$app" "$other"
must ifs stop
! grep -q 'imagefs\|erofs' /proc/self/mountinfo || fail "left: $(grep 'imagefs\|erofs' /proc/self/mountinfo)"
wait_for 20 '[ $(loop_devices) = 0 ]' || fail "left: $(loop_devices) loop devices"
sed -n 's/.*kernel_presentation by=loop_devices not_by_files="\(.*\)"/why not from files: \1/p' /run/imagefs/daemon.log | tail -n 1 >&3
sed -n 's/.*kernel_presentation_unavailable.*reason="\(.*\)"/why not kernel: \1/p' /run/imagefs/daemon.log | tail -n 1 >&3
