#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# -o uid=, gid=, umask=, fmask=, dmask= and allow_other: what the files of a mount look like, and who may enter it; as
# root and as a user, by the command and by mount(8), and after restarts of the daemon.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_root
home='' uid=''
need_user
chmod 711 "$home"
$PY - "$LIB" "$T/images/owners" <<'P'
import sys
sys.path.insert(0, sys.argv[1])
from oci import *
simple_image(sys.argv[2], [Tar().dir("d", mode=0o700).file("d/secret", b"of root\n", mode=0o4700).symlink("l", "d/secret")
    .file("other", b"of another\n", mode=0o644, uid=33, gid=33)])
P
chmod -R go+rX "$T/images"
ref=oci:$T/images/owners
looks() { same "$1" "$2" "$(cd "$3" && stat -c '%u:%g:%a' d d/secret other | xargs)"; }
user_looks() { same "$1" "$2" "$(as_user sh -c "cd '$3' && stat -c %u:%g:%a d d/secret other" | xargs)"; }

# As root.
mkdir "$M"/{a,b,c}
ifs mount -q -o uid=1000,gid=daemon,umask=027 "$ref" "$M/a" >/dev/null
gid=$(getent group daemon | cut -d: -f3)
looks "all of it" "1000:$gid:750 1000:$gid:750 1000:$gid:750" "$M/a"
same "by FUSE" fuse "$(ifs ls -n -o mode "$M/a")"
same "links" "1000 777" "$(stat -c '%u %a' "$M/a/l")"
ifs mount -q -o fmask=0133,dmask=0 "$ref" "$M/b" >/dev/null
looks "masks" "0:0:777 0:0:644 33:33:644" "$M/b"
ifs mount -q --mode fuse "$ref" "$M/c" >/dev/null
looks "as in the image" "0:0:700 0:0:4700 33:33:644" "$M/c"
same "listed" '["nosuid", "nodev", "dmask=0000", "fmask=0133"]' \
  "$(ifs ls --json "$M/b" | $PY -c 'import json,sys; print(json.dumps(json.load(sys.stdin)[0]["options"]))')"
setpriv --reuid=1000 --regid=1000 --clear-groups cat "$M/a/d/secret" >/dev/null || fail "the owner cannot read"
! setpriv --reuid=1001 --regid=1001 --clear-groups cat "$M/a/d/secret" 2>/dev/null || fail "another one can read"
refuse 2 'need FUSE' ifs mount -q --mode kernel -o uid=1 "$ref" "$M/a"
for how in stop kill; do
  if [ $how = stop ]; then ifs stop; else kill -9 "$(ifs status --json | field 'j["pid"]')"; fi
  ifs ls >/dev/null
  looks "after $how" "1000:$gid:750 1000:$gid:750 1000:$gid:750" "$M/a"
  looks "masks after $how" "0:0:777 0:0:644 33:33:644" "$M/b"
  looks "the other after $how" "0:0:700 0:0:4700 33:33:644" "$M/c"
done
ifs umount "$M/a" "$M/b" "$M/c"
ifs mount -q --rw -o uid=1000,umask=022 "$ref" "$M/a" >/dev/null
setpriv --reuid=1000 --regid=1000 --clear-groups sh -c "echo new >'$M/a/d/new' && echo more >>'$M/a/d/secret'" || fail "not writable for the owner"
ifs umount "$M/a"
ln -s "$IMAGEFS" "$T/mount.imagefs"
"$T/mount.imagefs" "$ref" "$M/a" -o "rw,uid=1000,umask=077,allow_other,root=$ROOT,run=$RUN"
looks "by mount(8)" "1000:0:700 1000:0:700 1000:33:700" "$M/a"
ifs umount "$M/a"
ifs stop
nothing_left "$M"

# As a user.
user() { as_user "$IMAGEFS" --root "$home/root" --run "$home/run" "$@"; }
other() { setpriv --reuid=1001 --regid=1001 --clear-groups "$@"; }
user mount -q -o uid="$uid",umask=0 "$ref" "$home/m" >/dev/null
user_looks "a user's" "$uid:0:777 $uid:0:777 $uid:33:777" "$home/m"
! other ls "$home/m" 2>/dev/null || fail "others may enter"
user umount "$home/m"
conf=$T/fuse.conf
: >"$conf"
[ -n "${IMAGEFS_TEST_NAMESPACE:-}" ] || { user stop; nothing_left "$home"; exit 0; }   # /etc is the machine's
touch /etc/fuse.conf
mount --bind "$conf" /etc/fuse.conf
refuse 5 'user_allow_other; add it .*leave out allow_other' user mount -q -o allow_other "$ref" "$home/m"
echo 'user_allow_other' >"$conf"
user mount -q -o allow_other "$ref" "$home/m" >/dev/null
same "others read what is for all" "of another" "$(other cat "$home/m/other")"
! other cat "$home/m/d/secret" 2>/dev/null || fail "others read what is root's"
! as_user cat "$home/m/d/secret" 2>/dev/null || fail "permissions do not count for the user"
cat "$home/m/d/secret" >/dev/null || fail "root cannot enter"
user stop; user ls >/dev/null
same "after a restart" "of another" "$(other cat "$home/m/other")"
! other cat "$home/m/d/secret" 2>/dev/null || fail "others read what is root's after a restart"
user umount "$home/m"
user mount -q -o "allow_other,uid=$uid,umask=077" "$ref" "$home/m" >/dev/null
same "the user is the owner" "of root" "$(as_user cat "$home/m/d/secret")"
! other cat "$home/m/other" 2>/dev/null || fail "others read what is the user's"
user umount "$home/m"
user stop
nothing_left "$home"
