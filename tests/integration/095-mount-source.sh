#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The source of a mount in findmnt(8) and df(1) is the reference as `imagefs ls` prints it, whoever shows the image and
# also after the daemon was killed; umount(8) takes it.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse; need findmnt
open_fuse
start_registry registry
image plain
push "$T/images/plain" test/plain:1
tagged=$REGISTRY/test/plain:1
odd=oci:$T/images/a\ b,c\\d
cp -r "$T/images/plain" "${odd#oci:}"
chmod -R a+rX "$T/images"

source_of() { findmnt -n -o SOURCE --mountpoint "$1"; }
# sourced WHAT LIST_COMMAND...: what findmnt and df say of each mount is what the list says.
sourced() {
  local what=$1 directory listed
  shift
  "$@" --json >"$T/ls.json"
  field '"\n".join(m["directory"] + "\t" + m["reference"] for m in j)' <"$T/ls.json" >"$T/listed"
  [ -s "$T/listed" ] || fail "$what: nothing is listed"
  while IFS=$'\t' read -r directory listed; do
    same "$what: findmnt of $directory" "$listed" "$(source_of "$directory")"
    same "$what: mountinfo of $directory" "$listed" "$($PY -c 'import re, sys
for line in open("/proc/self/mountinfo"):
    name, source = (re.sub(r"\\(\d{3})", lambda m: chr(int(m[1], 8)), line.split()[i]) for i in
                    (4, line.split().index("-") + 2))
    if name == sys.argv[1]: print(source)' "$directory")"
  done <"$T/listed"
}

for mode in $(modes); do
  mkdir -p "$M/$mode"/{tag,again,digest,odd,rw}
  ifs mount -q --mode "$mode" "$tagged" "$M/$mode/tag" >/dev/null
  digest=$REGISTRY/test/plain@$(ifs inspect "$tagged" --json | field 'j["manifest_digest"]')
  ifs mount -q --mode "$mode" "$tagged" "$M/$mode/again" >/dev/null
  ifs mount -q --mode "$mode" "$digest" "$M/$mode/digest" >/dev/null
  ifs mount -q --mode "$mode" "$odd" "$M/$mode/odd" >/dev/null
  ifs mount -q --mode "$mode" --rw "$tagged" "$M/$mode/rw" >/dev/null
  same "$mode" "$tagged" "$(source_of "$M/$mode/tag")"
  same "$mode, by digest" "$digest" "$(source_of "$M/$mode/digest")"
  same "$mode, local" "$odd" "$(source_of "$M/$mode/odd")"
  same "$mode, writable" "$tagged" "$(source_of "$M/$mode/rw")"
  same "$mode, df" "$tagged" "$(df --output=source "$M/$mode/tag" | tail -n 1)"
  same "$mode, df of a writable mount" "$tagged" "$(df --output=source "$M/$mode/rw" | tail -n 1)"
  same "$mode, one file system" "$(stat -c %d "$M/$mode/tag")" "$(stat -c %d "$M/$mode/again")"
done
if [ -e "$M/kernel" ]; then
  mkdir "$M/kernel/gone"
  ifs mount -q --mode kernel "$odd" "$M/kernel/gone" >/dev/null
fi
sourced "mounted" ifs ls
grep -q kernel <<<"$(modes)" && same "type" erofs "$(findmnt -n -o FSTYPE --mountpoint "$M/kernel/tag")"
ids() { awk -v below="$M/kernel/" 'index($5, below) == 1 { print $1, $3, $5 }' /proc/self/mountinfo | sort; }
ids >"$T/before"

# The next daemon, after a kill. Mounts that the kernel serves alone are the same ones. One was unmounted meanwhile, and
# another program mounted something with its source there, which stays.
slay $(daemons)
if [ -e "$M/kernel" ]; then
  umount "$M/kernel/gone"
  mount -t tmpfs "$odd" "$M/kernel/gone"
  ifs ls >/dev/null
  same "another program's" tmpfs "$(findmnt -n -o FSTYPE --mountpoint "$M/kernel/gone")"
  umount "$M/kernel/gone"
fi
sourced "after a kill" ifs ls
same "kernel mounts" "$(grep -v /gone "$T/before" || true)" "$(ids)"
for mode in $(modes); do
  for one in tag digest odd rw; do grep -q root "$M/$mode/$one/etc/passwd" || fail "$mode/$one: no content"; done
done

# umount(8) by the source, as for any file system, and remounts keep it.
for mode in $(modes); do ifs umount "$M/$mode/tag" "$M/$mode/again" "$M/$mode/rw"; done
mkdir "$M/one"
ifs mount -q "$tagged" "$M/one" >/dev/null
mount -o remount,bind,ro,noexec "$M/one"
same "after a remount" "$tagged" "$(source_of "$M/one")"
umount "$tagged"
wait_for 10 '! ifs ls --json | grep -q "$M/one"' || fail "umount(8) by the source is not noticed"
ifs umount --all
nothing_left "$M"
same "private mounts" "" "$(mounts_below "$RUN/chains" | grep -v "chains$" || true)"
ifs stop

# A user's, by fusermount3.
need fusermount3; need setpriv
[ -u "$(command -v fusermount3)" ] || skip "fusermount3 is not setuid"
chmod 711 "$T"
home=$T/home
mkdir -p "$home"/{a,b}
uid=$(id -u nobody) || skip "there is no user nobody"
chown -R "$uid:$uid" "$home"
as_user() {
  env -i PATH="$PATH" HOME="$home" setpriv --reuid="$uid" --regid="$uid" --clear-groups --inh-caps=-all \
    "$IMAGEFS" --root "$home/store" --run "$home/run" "$@"
}
as_user mount -q "oci:$T/images/plain" "$home/a" >/dev/null
as_user mount -q "$odd" "$home/b" >/dev/null
same "user" "oci:$T/images/plain" "$(source_of "$home/a")"
same "user, odd" "$odd" "$(source_of "$home/b")"
sourced "user" as_user ls
slay "$(as_user status --json | field 'j["pid"]')"
as_user ls >/dev/null
sourced "user, after a kill" as_user ls
as_user umount --all
nothing_left "$home"
as_user stop
