#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A mount is where its caller is: in mount namespaces other than the daemon's, of every propagation, and wherever the
# daemon was started first. It is listed, unmounted from there, survives restarts of the daemon, and is forgotten with
# its namespace. Also mount -N and a writable mount.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse
image plain
ref=oci:$T/images/plain
mkdir "$M"/{a,b,c,d}
files=$(cd "$T" && ifs mount -q "$ref" "$M/a" >/dev/null && cd "$M/a" && find . | wc -l)
[ "$files" -gt 3 ] || fail "only $files files"
ifs umount "$M/a"

# there PROPAGATION COMMAND: in a mount namespace of its own.
there() { unshare -m --propagation "$1" bash -c ". '$TESTS/lib/namespaces.sh'; $2"; }
count() { find "$1" -mindepth 1 2>/dev/null | wc -l; }
export -f ifs count fail same
export IMAGEFS ROOT RUN T M ref files

for propagation in private slave unchanged; do
  for mode in auto fuse; do
    there $propagation '
      ifs mount -q --mode '$mode' "$ref" "$M/a" >/dev/null
      same "files in the namespace" "$files" "$(cd "$M/a" && find . | wc -l)"
      same "it is listed" "$M/a" "$(ifs ls -q "$M/a")"
      ! ifs mount -q "$ref" "$M/a" 2>/dev/null || fail "mounted twice"
      ifs umount "$M/a"
      same "nothing is left" 0 "$(count "$M/a")"
      same "nothing is listed" "[]" "$(ifs ls --json | tr -d " \n")"' || fail "$propagation, $mode"
    same "outside, $propagation" 0 "$(count "$M/a")"
  done
done

# The same directory in two namespaces, and here.
ifs mount -q "$ref" "$M/a" >/dev/null
there private 'umount -l "$M/a"; ifs mount -q --mode fuse "$ref" "$M/a" >/dev/null
  same "two of that name" 2 "$(ifs ls -q | grep -c "/a$")"
  same "one there" "$files" "$(cd "$M/a" && find . | wc -l)"
  ifs umount --all; same "nothing there" 0 "$(count "$M/a")"'
same "the one here stays" "$files" "$(cd "$M/a" && find . | wc -l)"
ifs umount "$M/a"

# umount(8), and the end of the namespace.
there private 'ifs mount -q "$ref" "$M/b" >/dev/null; umount "$M/b"
  same "unmounted by umount(8)" "[]" "$(ifs ls --json | tr -d " \n")"'
there private 'ifs mount -q "$ref" "$M/b" >/dev/null; ifs mount -q --mode fuse "$ref" "$M/c" >/dev/null'
wait_for 20 '[ "$(ifs ls --json | tr -d " \n")" = "[]" ]' || fail "gone with its namespace: $(ifs ls)"
nothing_left "$M"

# Restarts and crashes of the daemon while it is mounted there; written to, too.
mkfifo "$T/go" "$T/done"
there private '
  ifs mount -q "$ref" "$M/a" >/dev/null; ifs mount -q --mode fuse "$ref" "$M/b" >/dev/null
  ifs mount -q --rw "$ref" "$M/c" >/dev/null; echo kept >"$M/c/new"
  echo ready >"$T/done"; read -r _ <"$T/go"
  for d in a b; do same "$d after a restart" "$files" "$(cd "$M/$d" && find . | wc -l)"; done
  same "written" kept "$(cat "$M/c/new")"
  same "listed after a restart" 3 "$(ifs ls -q | wc -l)"
  echo ready >"$T/done"; read -r _ <"$T/go"
  for d in a b; do same "$d after a crash" "$files" "$(cd "$M/$d" && find . | wc -l)"; done
  same "written" kept "$(cat "$M/c/new")"
  ifs umount "$M/a" "$M/b" "$M/c"; echo ended >"$T/done"' &
there=$!
read -r _ <"$T/done"
same "not here" 0 "$(count "$M/a")"
! ifs umount --all 2>"$T/err" || fail "unmounted from outside"
same "what can be unmounted only there" 3 "$(grep -c 'in another mount namespace; unmount it there' "$T/err")"
ifs stop
ifs ls >/dev/null
echo >"$T/go"; read -r _ <"$T/done"
kill -9 "$(ifs status --json | field 'j["pid"]')"
ifs ls >/dev/null
echo >"$T/go"; read -r _ <"$T/done"
wait $there
same "nothing is listed" "[]" "$(ifs ls --json | tr -d ' \n')"
[ -z "$(ls "$ROOT/upper")" ] || fail "an upper directory is left"

# What needs the daemon's view is refused before a byte is fetched.
there private '! ifs mount -q --rw --upper "$T/up" "$ref" "$M/a" 2>"$T/err" || fail mounted'
grep -q 'upper.*mount namespace' "$T/err" || fail "$(cat "$T/err")"
there private '! ifs mount -q "$ref" "$M/none" 2>"$T/err" || fail mounted'
grep -q 'does not exist; create it' "$T/err" || fail "$(cat "$T/err")"

# mount -N: in the namespace of another process.
ln -s "$IMAGEFS" "$T/mount.imagefs"
unshare -m --propagation private sleep 100 &
other=$!
wait_for 10 '[ "$(readlink /proc/$other/ns/mnt)" != "$(readlink /proc/self/ns/mnt)" ]'
"$T/mount.imagefs" "$ref" "$M/d" -N /proc/$other/ns/mnt -o "root=$ROOT,run=$RUN"
same "there" "$files" "$(nsenter -m -t $other bash -c "cd '$M/d' && find . | wc -l")"
same "not here" 0 "$(count "$M/d")"
nsenter -m -t $other umount "$M/d"
kill $other
wait_for 20 '[ "$(ifs ls --json | tr -d " \n")" = "[]" ]' || fail "$(ifs ls)"

# A daemon that was started first in a private namespace serves everybody.
ifs stop
there private 'ifs mount -q "$ref" "$M/a" >/dev/null; echo ready >"$T/done"; read -r _ <"$T/go"; ifs umount "$M/a"' &
there=$!
read -r _ <"$T/done"
ifs mount -q "$ref" "$M/a" >/dev/null
same "here, by that daemon" "$files" "$(cd "$M/a" && find . | wc -l)"
echo >"$T/go"
wait $there
same "still here" "$files" "$(cd "$M/a" && find . | wc -l)"
ifs umount "$M/a"
same "not any more" 0 "$(count "$M/a")"
nothing_left "$M"

# Where the kernel does not tell of other namespaces, the session of each mount does.
ifs stop
$PY "$LIB/without_statmount.py" "$IMAGEFS" --root "$ROOT" --run "$RUN" daemon >"$T/daemon.log" 2>&1 &
wait_for 20 'ifs status >/dev/null 2>&1' || fail "$(cat "$T/daemon.log")"
there private 'ifs mount -q "$ref" "$M/a" >/dev/null; same "files" "$files" "$(cd "$M/a" && find . | wc -l)"
  same "by the daemon" fuse "$(ifs ls -n -o mode "$M/a")"
  ! ifs mount -q --rw "$ref" "$M/b" 2>"$T/err" || fail "writable"
  ifs umount "$M/a"; same "unmounted" "[]" "$(ifs ls --json | tr -d " \n")"
  ifs mount -q -o noexec "$ref" "$M/a" >/dev/null
  grep -q " $M/a fuse.imagefs .*noexec" /proc/self/mounts || fail "not noexec"
  same "listed" "$M/a" "$(ifs ls -q)"'
grep -q 'leave out --rw' "$T/err" || fail "$(cat "$T/err")"
wait_for 20 '[ "$(ifs ls --json | tr -d " \n")" = "[]" ]' || fail "gone with its namespace: $(ifs ls)"
ifs mount -q "$ref" "$M/a" >/dev/null   # in its own namespace nothing differs
same "here" "$files" "$(cd "$M/a" && find . | wc -l)"
ifs umount "$M/a"
ifs stop
nothing_left "$M"
