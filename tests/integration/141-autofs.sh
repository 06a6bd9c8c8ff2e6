#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# automount(8) mounts images at their first access: by a map of directories, by a program that makes a name of an image
# from the name of a directory, and unmounts them when they are idle. The kernel lets only the automounter and its
# children pass meanwhile, so that the daemon must not look there.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse; need automount
grep -qw autofs /proc/filesystems || modprobe -q autofs4 2>/dev/null || true
grep -qw autofs /proc/filesystems || skip "this kernel has no autofs"
if [ -z "${IMAGEFS_TEST_NAMESPACE:-}" ]; then
  exec env IMAGEFS_TEST_NAMESPACE=1 unshare -m --propagation private "$0"
fi
image plain
ref=oci:$T/images/plain
sbin=$(readlink -f /sbin)
mkdir "$T/sbin"
mount -t tmpfs layers "$T/sbin"
mkdir "$T"/sbin/{upper,work}
ln -s "$IMAGEFS" "$T/sbin/upper/mount.imagefs"
mount -t overlay -o "lowerdir=$sbin,upperdir=$T/sbin/upper,workdir=$T/sbin/work" overlay "$sbin"
# The daemon is of the namespace of this script, and so is automount. (Its daemon may also run elsewhere.)
ifs ls >/dev/null
options=root=$ROOT,run=$RUN
cat >"$T/auto.images" <<MAP
plain -fstype=imagefs,$options :$ref
fuse -fstype=imagefs,mode=fuse,$options :$ref
none -fstype=imagefs,$options :oci:$T/images/none
MAP
# As in docs/systemd.md: every directory below is an image of that name.
cat >"$T/auto.program" <<MAP
#!/bin/sh
case \$1 in *[!a-z0-9._-]*) exit 1 ;; esac
echo "-fstype=imagefs,$options :oci:$T/images/\$1"
MAP
chmod +x "$T/auto.program"
cat >"$T/auto.master" <<MAP
$M/map $T/auto.images --timeout=2
$M/program program:$T/auto.program --timeout=2
MAP
mkdir "$M"/{map,program}
automount -f -p "$T/automount.pid" "$T/auto.master" >"$T/automount.log" 2>&1 &
automounter=$!
end_automount() { kill $automounter 2>/dev/null || true; wait $automounter 2>/dev/null || true; umount -l "$sbin" "$T/sbin" || true; }
AT_END+=(end_automount)
wait_for 20 'grep -q " $M/map autofs" /proc/self/mounts && grep -q " $M/program autofs" /proc/self/mounts' || fail "$(cat "$T/automount.log")"

for name in map/plain map/fuse program/plain; do
  timeout 20 test -s "$M/$name/etc/hostname" || timeout 20 ls "$M/$name" >"$T/listed" || fail "$name: $(cat "$T/automount.log")"
  [ "$(timeout 20 find "$M/$name" -mindepth 1 | wc -l)" -gt 3 ] || fail "$name is empty"
done
same "listed" "fuse plain plain" "$(ifs ls -q | xargs -n1 basename | sort | xargs)"
same "how" "fuse" "$(ifs ls --json "$M/map/fuse" | field 'j[0]["mode"]')"
! timeout 20 ls "$M/map/none" 2>/dev/null || fail "no such image"
! timeout 20 ls "$M/program/no such" 2>/dev/null || fail "no such name"
# Many at once: one mount.
readers=()
for i in $(seq 8); do timeout 20 find "$M/program/plain" >/dev/null & readers+=($!); done
for reader in "${readers[@]}"; do wait "$reader"; done
same "once" 1 "$(ifs ls -q | grep -c program/plain)"
# Idle ones are unmounted, and the daemon knows.
wait_for 15 '[ "$(ifs ls --json | tr -d " \n")" = "[]" ]' || fail "idle: $(ifs ls) $(cp $T/automount.log /tmp/am.log)"
timeout 20 ls "$M/map/plain" >/dev/null || fail "again"
same "mounted again" "$M/map/plain" "$(ifs ls -q)"
