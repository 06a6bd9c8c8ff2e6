#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# mount(8) mounts images through mount.imagefs: by hand, from fstab, for root and for a user; its options and
# exit statuses; umount(8) and `imagefs umount` both take them away.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse
# mount(8) looks for helpers in /sbin only: a namespace of its own gets one there.
if [ -z "${IMAGEFS_TEST_NAMESPACE:-}" ]; then
  status=0
  IMAGEFS_TEST_NAMESPACE=1 unshare -m --propagation private "$0" || status=$?
  exit $status
fi
install_mount_helper
if [ "$(stat -c %a /dev/fuse)" != 666 ]; then
  mknod -m 666 "$T/sbin/fuse" c 10 229
  mount --bind "$T/sbin/fuse" /dev/fuse
fi

image plain
ref=oci:$T/images/plain
here=root=$ROOT,run=$RUN
mkdir "$M"/{a,b,rw,bad}
mnt() { timeout -k 5 120 mount -t imagefs "$@"; }
# ends STATUS REGEX COMMAND...: with that status, and a message.
ends() {
  local want=$1 regex=$2 status=0
  shift 2
  "$@" >"$T/out" 2>"$T/err" || status=$?
  same "status of $* ($(cat "$T/err"))" "$want" "$status"
  grep -qE "$regex" "$T/err" || { cat "$T/err"; fail "the message does not say /$regex/: $*"; }
}
gone() { wait_for 10 "[ \"\$(ifs ls --json | field 'len(j)')\" = 0 ]" || fail "still listed: $(ifs ls)"; }

for mode in $(modes); do
  # By hand. No daemon runs, and none has a socket: the helper starts one.
  same "no daemon" "" "$(daemons)"
  mnt "$ref" "$M/a" -o "$here,mode=$mode,devices,noexec" >"$T/out" 2>&1
  same "it says nothing" "" "$(cat "$T/out")"
  grep -q root "$M/a/etc/passwd" || fail "$mode: no content"
  flags=$(findmnt -n -o VFS-OPTIONS "$M/a")
  same "$mode: flags" ro,nosuid,noexec,relatime "$flags"
  same "$mode: read-only although mount(8) says rw" false "$(ifs ls --json | field 'j[0]["writable"]')"
  same "mode" "$mode" "$(ifs ls --json | field 'j[0]["mode"]')"
  # The same again is done already; something else is refused.
  mnt "$ref" "$M/a" -o "$here"
  same "one mount" 1 "$(mounts_below "$M/a" | wc -l)"
  ends 32 'is mounted there' mnt "$ref" "$M/a" -o "$here,writable"

  # umount(8) takes it away for good; what the kernel shows also while no daemon looks.
  umount "$M/a"
  gone
  mnt -v "$ref" "$M/a" -o "$here,mode=$mode" >"$T/out" 2>&1
  grep -q "$M/a" "$T/out" || fail "-v says nothing: $(cat "$T/out")"
  if [ "$mode" = kernel ]; then
    slay $(daemons)
    umount "$M/a"
    same "mounts after umount without a daemon" 0 "$(ifs ls --json | field 'len(j)')"
  else
    ifs umount "$M/a"
  fi
  # So does the command.
  mnt "$ref" "$M/a" -o "$here,mode=$mode"
  ifs umount "$M/a"
  nothing_left "$M"

  # What is written.
  mnt "$ref" "$M/rw" -o "$here,mode=$mode,writable,upper=$T/upper.$mode"
  echo written >"$M/rw/new"
  umount "$M/rw"
  gone
  same "$mode: kept" written "$(cat "$T/upper.$mode/upper/new")"
  ifs stop --unmount
  wait_for 10 '[ -z "$(daemons)" ]' || fail "a daemon is left"
done

# A file like fstab: `mount -a` twice, then one that its user may mount.
cat >"$T/fstab" <<FSTAB
$ref $M/a imagefs defaults,ro,$here,_netdev,nofail,x-systemd.requires=imagefs.socket 0 0
$ref $M/b imagefs noauto,setuid,devices,$here,comment=second 0 0
FSTAB
timeout 60 mount -a -T "$T/fstab"
timeout 60 mount -a -T "$T/fstab"
same "mounted" "$M/a" "$(mounts_below "$M")"
timeout 60 mount -T "$T/fstab" "$M/b"
same "mounted" 2 "$(mounts_below "$M" | wc -l)"
same "fstab: defaults" ro,nosuid,nodev,relatime "$(findmnt -n -o VFS-OPTIONS "$M/a")"
same "fstab: setuid,devices" ro,relatime "$(findmnt -n -o VFS-OPTIONS "$M/b")"
umount "$M/a" "$M/b"
gone

# Fake, sloppy, wrong.
mnt -f "$ref" "$M/a" -o "$here"
nothing_left "$M"
ends 1 'flying is not known' mnt "$ref" "$M/bad" -o "$here,flying"
mnt -s "$ref" "$M/a" -o "$here,flying"
umount "$M/a"
ends 1 'no image|invalid|reference|not' mnt "NO:SUCH:THING" "$M/bad" -o "$here"
ends 1 'remount' mnt "$ref" "$M/bad" -o "$here,remount"
ends 32 "$T/none" mnt "oci:$T/none" "$M/bad" -o "$here"
ends 32 'exist' /sbin/mount.imagefs "$ref" "$M/none" -o "$here"
ends 1 'an image and a directory' /sbin/mount.imagefs "$ref"
nothing_left "$M"
ifs stop

# An entry that a user may mount: mount(8) gives the helper that user's rights, so that the mount is of the user's
# own daemon, and the user unmounts it again.
need fusermount3; need setpriv
uid=$(id -u nobody)
home=$T/home
mkdir -p "$home/m"
chown -R "$uid" "$home"
chmod -R a+rX "$T/images"
chmod 711 "$T"
echo "$ref $home/m imagefs user,noauto,root=$home/store,run=$home/run 0 0" >"$T/fstab"
mount --bind "$T/fstab" /etc/fstab
no_fstab() { umount -l /etc/fstab; }
AT_END+=(no_fstab)
as_user() {
  timeout 60 env -i PATH="$PATH" HOME="$home" setpriv --reuid="$uid" --regid="$uid" --clear-groups --inh-caps=-all "$@"
}
as_user mount "$home/m"
as_user grep -q root "$home/m/etc/passwd" || fail "no content"
flags=$(findmnt -n -o VFS-OPTIONS "$home/m")
for flag in nosuid nodev; do grep -qw $flag <<<"$flags" || fail "user: no $flag: $flags"; done
user_ifs() { as_user "$IMAGEFS" --root "$home/store" --run "$home/run" "$@"; }
same "whose daemon" "$uid" "$(stat -c %u "/proc/$(user_ifs status --json | field 'j["pid"]')")"
user_ifs umount "$home/m"
nothing_left "$home"
user_ifs stop
