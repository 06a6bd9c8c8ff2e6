#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# docs/hpc.md: what the users of a cluster do with a mount. 64 processes that start from one lazy mount at once fetch it
# once; ch-run, bwrap, podman --rootfs DIR:O and copies work on mounts of root's and of the user's; podman without root
# has images in a store that a daemon makes in podman's own user namespace, also after that was made anew.
. "$(dirname "$0")/../lib/lib.sh"
. "$LIB/lazy.sh"
. "$LIB/podman.sh"
need_podman; need fusermount3; need setpriv; need bwrap; need ch-run; need newuidmap; need rsync
[ -u "$(command -v fusermount3)" ] || skip "fusermount3 is not setuid"
# Mounts that are made later must reach the namespace that podman keeps for its user, as on a machine that systemd booted.
if [ -z "${IMAGEFS_TEST_NAMESPACE:-}" ]; then
  exec env IMAGEFS_TEST_NAMESPACE=1 unshare -m --propagation private "$0"
fi
mount --make-rshared /
open_fuse
# A user with subordinate ids, whom only this namespace knows.
home=$T/user uid=4711
mkdir -p "$home"/{run,m,podman-m,copy,.config/containers} "$T/etc"
for file in passwd group subuid subgid; do
  cp "/etc/$file" "$T/etc/" 2>/dev/null || skip "this machine has no /etc/$file"
done
echo "hpc:x:$uid:$uid::$home:/bin/sh" >>"$T/etc/passwd"
echo "hpc:x:$uid:" >>"$T/etc/group"
for file in subuid subgid; do echo "hpc:1000000:65536" >>"$T/etc/$file"; done
for file in passwd group subuid subgid; do mount --bind "$T/etc/$file" "/etc/$file"; done
chmod 700 "$home/run"
chown -R "$uid:$uid" "$home"
as_user() {
  env -i PATH="$PATH" HOME="$home" USER=hpc XDG_RUNTIME_DIR="$home/run" IMAGEFS_CONFIG="$T/config.toml" \
    setpriv --reuid="$uid" --regid="$uid" --clear-groups --inh-caps=-all "$@"
}
user() { as_user timeout -k 5 60 "$IMAGEFS" --root "$home/store" --run "$home/run/imagefs" "$@"; }

$PY - "$LIB" "$T/images/app" <<'P'
import random, sys
sys.path.insert(0, sys.argv[1])
from oci import *
tools = host_tar(["sh", "cat", "ls", "id", "stat", "sha256sum", "wc"])
for directory in ("proc", "dev", "sys", "tmp", "etc", "home", "mnt"):
    tools.dir(directory)
tools.file("etc/passwd", b"root:x:0:0::/root:/bin/sh\n").file("etc/group", b"root:x:0:\n").file("etc/hosts").file("etc/resolv.conf")
data = Tar().file("word", b"one\n").dir("data")
for k in range(100):
    data.file(f"data/{k}", random.Random(f"hpc {k}").randbytes(4000 + 1370 * k))
data.dir("private", mode=0o700).file("private/key", b"of root\n", mode=0o600)
data.dir("web", mode=0o750, uid=33, gid=33).file("web/key", b"of 33\n", mode=0o640, uid=33, gid=33)
simple_image(sys.argv[2], [tools, data], config_extra={"config": {"Env": ["PATH=/bin"], "Cmd": ["cat", "/word"]}})
P
start_registry registry
push "$T/images/app" test/app:1
publish app
start_shaper line --rtt 2
app=$SHAPED/test/app:1
sums=$(cd "$T" && ifs mount -q --eager "oci:$T/images/app" "$M" >/dev/null && sha256sum <(cat "$M"/data/*) | cut -c1-64)
ifs umount "$M"; ifs stop

# ---- 64 processes at once, as srun starts them: by root's mount and by the user's, of an image that is not here yet
command='cat /data/* | sha256sum'
chroots() { timeout 100 chroot "$M" /bin/sh -c "$command"; }
boxes() { as_user timeout 100 bwrap --ro-bind "$home/m" / --proc /proc --dev /dev /bin/sh -c "$command"; }
together() { # WHAT FUNCTION
  same "$1: bytes of layers before" 0 "$(sent app)"
  storm 64 "$2"
  for i in $(seq 64); do same "$1: process $i" "$sums  -" "$(cat "$T/storm/$i")"; done
  lazy once "$SHAPER/requests" "$T/images/app" || fail "$1: asked twice"
  [ "$(sent app)" -gt 0 ] || fail "$1: nothing was fetched"
}
for mode in $(modes); do
  store "once-$mode"
  forget_requests
  ifs mount -q --mode "$mode" "$app" "$M" >/dev/null
  together "root, $mode" chroots
  ifs umount "$M"; ifs stop
done
forget_requests
user mount -q "$app" "$home/m" >/dev/null
together "a user" boxes

# ---- the site's store on a file system that a program serves (CVMFS is one, sshfs another), read only
store export
ifs export-store -q "$T/site" "oci:$T/images/app" >/dev/null
ifs stop
(cd "$T/site" && tar -cf "$T/site.tar" .)
$PY - "$LIB" "$T/images/site" "$T/site.tar" <<'P'
import sys
sys.path.insert(0, sys.argv[1])
from oci import *
simple_image(sys.argv[2], [Layer(open(sys.argv[3], "rb").read())])
P
store server
mkdir "$T/shared"
ifs mount -q --mode fuse "oci:$T/images/site" "$T/shared" >/dev/null
same "the kind of its file system" fuse.imagefs "$(findmnt -n -o FSTYPE "$T/shared")"
server=$ROOT\ $RUN
mv "$T/images/app" "$T/images/hidden"
configure '[fill]' 'background = false' '[store]' "shared = [\"$T/shared\"]"
for mode in $(modes); do
  store "shared-$mode"
  ifs mount -q --pull never --mode "$mode" "oci:$T/images/app" "$M" >/dev/null
  same "from a shared store, $mode" "$sums" "$(cat "$M"/data/* | sha256sum | cut -c1-64)"
  ifs umount "$M"; ifs stop
done
configure '[fill]' 'background = false'
mv "$T/images/hidden" "$T/images/app"
read -r ROOT RUN <<<"$server"
ifs umount "$T/shared"; ifs stop

# ---- on the user's own mount, which has all of the image
same "bwrap" "of root" "$(as_user bwrap --unshare-user --uid 0 --gid 0 --ro-bind "$home/m" / --proc /proc --dev /dev /bin/cat /private/key)"
same "ch-run" "of 33" "$(as_user ch-run --unset-env='*' "$home/m" -- /bin/cat /web/key)"
as_user sh -c "echo scratch >'$home/copy/file'"
same "bwrap --bind" scratch "$(as_user bwrap --ro-bind "$home/m" / --proc /proc --dev /dev --bind "$home/copy" /mnt /bin/cat /mnt/file)"
same "ch-run -b" scratch "$(as_user ch-run --unset-env='*' -b "$home/copy:/mnt" "$home/m" -- /bin/cat /mnt/file)"
rm "$home/copy/file"
as_user rsync -a "$home/m/" "$home/copy" 2>"$T/err" || fail "rsync: $(cat "$T/err")"
as_user diff -r --no-dereference "$home/m" "$home/copy" || fail "the copy differs"

# ---- on a mount of root's, as a prolog, fstab or autofs makes it: what others may read
store node
ifs mount -q "$app" "$M" >/dev/null
same "bwrap" "one 100" "$(as_user bwrap --ro-bind "$M" / --proc /proc --dev /dev /bin/sh -c 'cat /word; ls /data | wc -l' | xargs)"
same "ch-run" one "$(as_user ch-run --unset-env='*' "$M" -- /bin/cat /word)"
for one in bwrap ch-run; do
  case $one in
    bwrap) run=(bwrap --unshare-user --uid 0 --gid 0 --ro-bind "$M" / --proc /proc --dev /dev) ;;
    ch-run) run=(ch-run --unset-env='*' "$M" --) ;;
  esac
  ! as_user "${run[@]}" /bin/cat /private/key 2>"$T/err" || fail "$one reads what is root's"
  grep -q 'Permission denied' "$T/err" || fail "$one: $(cat "$T/err")"
done

# ---- podman of root's, and of the user
own() { own_podman --runtime runc run --rm "${CONTAINER[@]}" --rootfs "$@"; }
same "podman --rootfs" "of root changed" "$(own "$M:O" sh -c 'cat /private/key; echo changed >/word; cat /word' | xargs)"
same "unchanged" one "$(cat "$M/word")"
printf '[storage]\ndriver = "overlay"\n[storage.options]\nadditionalimagestores = ["%s"]\n' "$home/images/podman" \
  >"$home/.config/containers/storage.conf"
as_user mkdir -p -m 700 "$home/images/podman"
rootless() { as_user timeout -k 5 60 podman --cgroup-manager cgroupfs --events-backend none --runtime runc "$@" 2>"$T/podman.err"; }
contained() { rootless run --rm --pull never --network host "$@" || { cat "$T/podman.err" >&2; return 1; }; }
# Of a mount that was made outside of podman's namespace, files of root are nobody's there: podman cannot make /etc/mtab.
for directory in "$M" "$home/m"; do
  ! rootless run --rm --network host --rootfs "$directory:O" true || fail "it runs, of $directory: docs/hpc.md says otherwise"
  grep -q 'etc/mtab.*permission denied' "$T/podman.err" || fail "$(cat "$T/podman.err")"
done
user umount "$home/m"; user stop
ifs umount "$M"; ifs stop

# ---- by a daemon in podman's namespace: ids as podman has them, from the first command on
inside() { as_user timeout -k 5 100 podman unshare "$IMAGEFS" --root "$home/images" --run "$home/run/images" "$@" 2>"$T/err"; }
inside mount -q "$app" "$home/podman-m" >/dev/null || fail "$(cat "$T/err")"
same "--rootfs" "of root of 33 33 changed" \
  "$(contained --rootfs "$home/podman-m:O" sh -c 'cat /private/key /web/key; stat -c %u /web/key; echo changed >/word; cat /word' | xargs)"
same "as another user" "one 1000" "$(contained --user 1000 --rootfs "$home/podman-m:O" sh -c 'cat /word; id -u' | xargs)"
inside umount "$home/podman-m" || fail "$(cat "$T/err")"
inside add -q "$app" >/dev/null || fail "$(cat "$T/err")"
same "images" "$app true" "$(rootless images --format '{{.Repository}}:{{.Tag}} {{.ReadOnly}}')"
same "a container" one "$(contained "$app")"
same "which writes" "of root of 33 33 changed" \
  "$(contained "$app" sh -c 'cat /private/key /web/key; stat -c %u /web/key; echo changed >/word; cat /word' | xargs)"
same "with the user's number" "$uid one" "$(contained --userns keep-id "$app" sh -c 'id -u; cat /word' | xargs)"
one_of_many() { as_user timeout 100 podman --cgroup-manager cgroupfs --events-backend none --runtime runc run --rm --pull never \
  --network host "$app" sh -c "$command"; }
storm 4 one_of_many
for i in 1 2 3 4; do same "container $i" "$sums -" "$(tail -n 1 "$T/storm/$i" | tr -s ' ')"; done
# Podman's namespace goes and comes: a restarted daemon is in the new one, and has everything.
rootless system migrate
! rootless run --rm --pull never --network host "$app" >/dev/null || fail "a container of an image that its namespace does not have"
grep -q 'not found' "$T/podman.err" || fail "$(cat "$T/podman.err")"
inside stop || fail "$(cat "$T/err")"
inside add --list >/dev/null || fail "$(cat "$T/err")"
same "in a namespace made anew" one "$(contained "$app")"
inside drop "$app" >/dev/null 2>&1 || fail "$(cat "$T/err")"
same "dropped" "" "$(rootless images -q)"
inside stop
rootless system migrate
nothing_left "$home/m" "$home/podman-m"
