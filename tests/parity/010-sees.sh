#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The suite sees what differs: a second unpacked tree is equal, one that was altered is not, and every alteration is
# named by the call that shows it.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/suite.sh"
need_root; need_fuse
$PY "$PARITY/image.py" "$T/images"
on_disk everything
on_disk everything "$T/same"
on_disk everything "$T/altered"
mapfile -t topics < <($PY "$PARITY/parity.py" --list)

cd "$T/altered"
chmod 600 files/512
chown 5 files/1
touch files/4095
printf X | dd of=files/4096 bs=1 seek=100 conv=notrunc status=none && touch -d @1600000000 files/4096
truncate -s 65535 files/65536
printf X | dd of=sparse/huge bs=1 seek=$((1 << 31)) conv=notrunc status=none
ln -sfn ../files/512 links/file
setfattr -n user.one -v other xattrs/file
setfattr -x user.thing xattrs/trusted
touch odd/extra
rm odd/none -r
cp -p hard/b hard/new && mv hard/new hard/b
rm special/null && mknod -m 666 special/null c 1 5
chmod u-s bin/setuid
setfattr -x security.capability bin/capable
printf '\x29' | dd of=bin/code bs=1 seek=1 conv=notrunc status=none
chmod 755 modes/d0711
cd "$T"
for tree in disk/everything same altered; do read_only "$T/$tree"; done

compare --mode disk "$T/disk/everything" "$T/same" "${topics[@]}"

if compare --mode disk --limit 100000 "$T/disk/everything" "$T/altered" "${topics[@]}" >"$T/altered.out"; then
  fail "altered, and equal"
fi
grep -q ', different' "$T/altered.out" || { tail -n 20 "$T/altered.out"; fail "no comparison took place"; }
while IFS= read -r line; do
  grep -qF "  $line" "$T/altered.out" || { FAILED=$((FAILED + 1)); echo "not seen: $line"; }
done <<'SEEN'
metadata: lstat b'files/512': {'mode': '0o100644'} on the disk, {'mode': '0o100600'} in the mount
metadata: statx 0x100 b'files/512'
users: as 1000:1000[]: open O_RDONLY b'files/512'
metadata: stat b'files/1': {'uid': 0} on the disk, {'uid': 5} in the mount
metadata: lstat b'files/4095': {'mtime'
reading: pread of 4096 at 0 b'files/4096'
reading: O_DIRECT read of 4096 at 0 b'files/4096'
mapping: mmap MAP_SHARED b'files/4096'
mapping: mmap MAP_PRIVATE b'files/4096'
transfer: sendfile from 0 b'files/4096'
transfer: splice from 0 b'files/4096'
transfer: copy_file_range to the disk from 0 b'files/4096'
metadata: lstat b'files/65536': {'mtime': 1600000000000000000, 'size': 65536}
reading: read across 2 GiB b'sparse/huge'
metadata: readlink into 4096 bytes b'links/file'
xattrs: lgetxattr b'user.one' into 65536 bytes b'xattrs/file': (5, b'value') on the disk, (5, b'other') in the mount
xattrs: llistxattr into 0 bytes b'xattrs/trusted'
users: as 1000:1000[]: llistxattr b'xattrs/trusted'
directories: getdents64: names and types b'odd'
metadata: lstat b'odd/none': {'mode': '0o40755'
metadata: first path with this st_ino b'hard/b': b'hard/a' on the disk, b'hard/b' in the mount
special: open of a device b'special/null'
programs: execve as 1000:1000 b'bin/setuid': 42 on the disk
programs: a program with a capability b'bin/capable': 'right' on the disk, 'wrong' in the mount
programs: code of a mapping b'bin/code'
users: as 1001:1001[2000, 6]: listdir b'modes/d0711'
SEEN
[ $FAILED = 0 ] || { head -c 3000 "$T/altered.out"; fail "$FAILED alterations are not seen"; }

# A mount with other flags.
mount -o remount,ro,bind,nosuid,nodev,noexec "$T/same"
for topic in programs special filesystem mapping; do
  if compare --mode disk "$T/disk/everything" "$T/same" $topic >"$T/flags.out"; then
    fail "the flags are not seen by $topic"
  fi
done
