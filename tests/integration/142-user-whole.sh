#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A user's mount shows the whole image: files that only root may read in the image, by cp -a, tar, and programs that run
# in it as root of a user namespace (unshare, bwrap, ch-run); nobody else can look into it. Also in a mount namespace
# that is not the daemon's.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_root; need bwrap; need ch-run
home='' uid=''
need_user
$PY - "$LIB" "$T/images/secret" <<'P'
import sys
sys.path.insert(0, sys.argv[1])
from oci import *
simple_image(sys.argv[2], [host_tar(["sh", "cat", "ls", "id"]).dir("root", mode=0o700).file("root/secret", b"of root\n", mode=0o600)
    .dir("var").dir("var/private", mode=0o700, uid=33, gid=33).file("var/private/key", b"of another\n", mode=0o400, uid=33, gid=33)
    .file("etc/shadow", b"root:*:\n", mode=0o640, gid=42).dir("proc").dir("dev").dir("sys").dir("tmp").dir("home").dir("mnt")
    .file("etc/passwd", b"root:x:0:0::/root:/bin/sh\n").file("etc/group", b"root:x:0:\n").file("etc/hosts").file("etc/resolv.conf")])
P
chmod -R go+rX "$T/images"
mkdir "$home/other"
chown "$uid" "$home/m" "$home/other"
ref=oci:$T/images/secret
user() { as_user "$IMAGEFS" --root "$home/root" --run "$home/run" "$@"; }
user mount -q "$ref" "$home/m" >/dev/null

same "by its user" "of root" "$(as_user cat "$home/m/root/secret")"
same "of a third user" "of another" "$(as_user cat "$home/m/var/private/key")"
same "owner and mode are the image's" "33 400" "$(as_user stat -c '%u %a' "$home/m/var/private/key")"
as_user cp -a "$home/m" "$home/copy" 2>"$T/err" || fail "cp -a: $(cat "$T/err")"
same "copied" "of another" "$(as_user sh -c "chmod u+rx '$home/copy/var/private'; cat '$home/copy/var/private/key'")"
as_user tar -C "$home/m" -cf "$home/all.tar" . || fail "tar"
same "all of it" "$(as_user find "$home/m" -mindepth 1 | wc -l)" "$(as_user tar -tf "$home/all.tar" | grep -vc '^\./$')"
for one in 0:0 1:1; do
  ! setpriv --reuid="${one%:*}" --regid="${one#*:}" --clear-groups ls "$home/m" 2>/dev/null || fail "${one%:*} can look into it"
done

# As root of a user namespace.
same "unshare" "of root" "$(as_user unshare -r --root="$home/m" /bin/cat /root/secret)"
same "bwrap" "of another" \
  "$(as_user bwrap --unshare-user --uid 0 --gid 0 --ro-bind "$home/m" / --proc /proc --dev /dev /bin/cat /var/private/key)"
same "ch-run" "of root" "$(as_user env USER=nobody ch-run --unset-env='*' "$home/m" -- /bin/cat /root/secret)"
user umount "$home/m"

# In another mount namespace: the command makes the mount, the daemon serves it; also one that is started there.
there() {
  unshare -m --propagation private bash -c "$(declare -f as_user user same fail); uid=$uid home=$home ref=$ref T=$T IMAGEFS=$IMAGEFS"$'\n'"$1"
}
there 'user mount -q "$ref" "$home/other" >/dev/null
  same "there" "of root" "$(as_user cat "$home/other/root/secret")"
  same "listed" "$home/other" "$(user ls -q)"
  user stop; user ls >/dev/null
  same "after a restart" "of another" "$(as_user cat "$home/other/var/private/key")"
  user umount "$home/other"
  same "unmounted" 0 "$(ls "$home/other" | wc -l)"
  user stop' || fail "in another namespace"
user ls >/dev/null
there 'user mount -q "$ref" "$home/other" >/dev/null' || fail "in another namespace, again"
same "not here" 0 "$(ls "$home/other" | wc -l)"
wait_for 20 '[ "$(user ls --json | tr -d " \n")" = "[]" ]' || fail "gone with its namespace: $(user ls)"
user stop
nothing_left "$home"
