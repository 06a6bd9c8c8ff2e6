#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The options of mount: flags as mount(8) has them, ids shown as others, an upper directory of one's own.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse
image plain owners
ref=oci:$T/images/plain
mkdir "$M"/{strict,plain,rw,again,mapped,bad}
flags_of() { findmnt -n -o VFS-OPTIONS "$1"; }
for mode in $(modes); do
  ifs mount -q --mode "$mode" -o ro,nosuid,nodev,noexec,defaults,x-systemd.automount "$ref" "$M/strict" >/dev/null
  ifs mount -q --mode "$mode" "$ref" "$M/plain" >/dev/null
  for flag in ro nosuid nodev noexec; do
    flags_of "$M/strict" | grep -qw "$flag" || fail "$mode: no $flag: $(flags_of "$M/strict")"
  done
  same "$mode: a mount without flags" ro,nosuid,nodev,relatime "$(flags_of "$M/plain")"
  ! "$M/strict/bin/tool" 2>/dev/null || fail "$mode: a program runs on noexec"
  same "$mode: listed" '["nosuid", "nodev", "noexec"]' \
    "$(ifs ls --json | field '[m["options"] for m in j if m["directory"].endswith("strict")][0]')"
  for words in suid,dev nosuid,suid,nodev,dev; do
    ifs umount "$M/plain"
    ifs mount -q --mode "$mode" -o "$words" "$ref" "$M/plain" >/dev/null
    same "$mode: $words" ro,relatime "$(flags_of "$M/plain")"
  done
  same "$mode: listed" '[]' "$(ifs ls --json | field '[m["options"] for m in j if m["directory"].endswith("plain")][0]')"
  ifs umount --all

  ifs mount -q --mode "$mode" -o rw,dev --upper "$T/upper" "$ref" "$M/rw" >/dev/null
  same "$mode: writable" rw,nosuid,relatime "$(flags_of "$M/rw")"
  echo "$mode" >"$M/rw/written"
  ifs umount "$M/rw"
  same "$mode: kept" "$mode" "$(cat "$T/upper/upper/written")"
  ifs mount -q --mode "$mode" --rw --upper "$T/upper" "$ref" "$M/again" >/dev/null
  same "$mode: comes back" "$mode" "$(cat "$M/again/written")"
  refuse 6 'choose another --upper' ifs mount -q --mode "$mode" --rw --upper "$T/upper" "$ref" "$M/rw"
  ifs umount --all
done
refuse 2 'flying' ifs mount -o nosuid,flying "$ref" "$M/bad"
refuse 2 'quotation' ifs mount -o 'context="a' "$ref" "$M/bad"
refuse 2 'upper needs --rw' ifs mount --upper "$T/upper" "$ref" "$M/bad"
refuse 1 'IMAGE:HOST:COUNT' ifs mount -q --map-uids 0:1 "$ref" "$M/bad"
refuse 2 'exclude each other' ifs mount --rw --map-uids 0:1:2 "$ref" "$M/bad"
refuse 2 'kernel presentation' ifs mount --mode fuse --map-uids 0:1:2 "$ref" "$M/bad"
if modes | grep -qx kernel; then
  ifs mount -q --map-uids 0:100000:65536 "$ref" "$M/mapped" >/dev/null
  same "owner" "100000 100000" "$(stat -c '%u %g' "$M/mapped/etc/passwd")"
  ifs mount -q "$ref" "$M/plain" >/dev/null
  same "owner elsewhere" "0 0" "$(stat -c '%u %g' "$M/plain/etc/passwd")"
  # A context needs a kernel with SELinux; one without refuses it, and the reason is told.
  if [ ! -d /sys/fs/selinux ]; then
    refuse 1 'context' ifs mount -q --context system_u:object_r:container_file_t:s0 "$ref" "$M/bad"
  fi
  ifs umount --all
fi
nothing_left "$M"
[ -z "$(mounts_below "$RUN")" ] || fail "private mounts left: $(mounts_below "$RUN")"
