#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A daemon whose next one is in another mount namespace: what it mounted stays where it is, is listed as being there, and
# is mounted again only once that namespace is gone. A directory's name means that of the caller's namespace.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_root; need_fuse; need setpriv
open_fuse
image plain
chmod -R a+rX "$T/images"
ref=oci:$T/images/plain
mkdir "$M"/{a,b,c,d}
ifs mount -q "$ref" "$M/a" >/dev/null
files=$(cd "$M/a" && find . | wc -l)
asks=$(ifs ls --json | field 'int(j[0]["namespace"] == 0)')
ifs umount "$M/a"
ifs stop
[ "$asks" = 1 ] || fail "the daemon's own mounts are elsewhere"

there() { unshare -m --propagation private bash -c ". '$TESTS/lib/namespaces.sh'; $1"; }
count() { find "$1" -mindepth 1 2>/dev/null | wc -l; }
export -f ifs count fail same wait_for field
export IMAGEFS ROOT RUN T M PY ref files
mkfifo "$T/go" "$T/done"
options() { ifs status --json "$1" | field '" ".join(j["options"])'; }
elsewhere() { ifs ls -n -o directory,state | grep -c 'another namespace' || true; }

# Of the daemon's own namespace, which the next daemon is not in.
there '
  ifs mount -q -o noexec "$ref" "$M/a" >/dev/null; ifs mount -q --mode fuse "$ref" "$M/b" >/dev/null
  ifs mount -q --rw "$ref" "$M/c" >/dev/null; echo kept >"$M/c/new"
  echo ready >"$T/done"; read -r _ <"$T/go"
  for d in a b; do same "$d with the next daemon" "$files" "$(cd "$M/$d" && find . | wc -l)"; done
  same "written" kept "$(cat "$M/c/new")"
  same "the status of the one here" "nosuid nodev noexec" "$(ifs status --json "$M/a" | field "\" \".join(j[\"options\"])")"
  ifs status --html "$T/page.html" "$M/a"; grep -q "$M/a" "$T/page.html" || fail "no page"
  ifs umount "$M/a" "$M/b" "$M/c"
  for d in a b c; do same "$d is unmounted" 0 "$(count "$M/$d")"; done
  echo ended >"$T/done"; read -r _ <"$T/go"' &
there=$!
read -r _ <"$T/done"
if $PY "$LIB/asks_namespaces.py" 2>/dev/null; then asks=1; else asks=0; fi
ifs stop
ifs ls >/dev/null
if [ $asks = 1 ]; then
  same "all of them elsewhere" 3 "$(elsewhere)"
  for d in a b c; do same "$d is not mounted here" 0 "$(count "$M/$d")"; done
  refuse 4 'no imagefs mount in this mount namespace' ifs status "$M/a"
  ifs mount -q "$ref" "$M/a" >/dev/null
  same "two of that name" 2 "$(ifs ls -q | grep -c '/a$')"
  same "the status of the one here" "nosuid nodev" "$(options "$M/a")"
  same "listed by that name" 0 "$(ifs ls --json "$M/a" | field 'j[0]["namespace"]')"
  kill -9 "$(ifs status --json | field 'j["pid"]')"
  ifs ls >/dev/null
  same "still elsewhere" 3 "$(elsewhere)"
  same "still here" "$files" "$(cd "$M/a" && find . | wc -l)"
  echo >"$T/go"; read -r _ <"$T/done"
  same "one is left" "$M/a" "$(ifs ls -q)"
  [ -z "$(ls "$ROOT/upper")" ] || fail "an upper directory is left"
  echo >"$T/go"
  wait $there || fail "in the namespace of the first daemon"
  ifs umount "$M/a"
else
  kill $there
fi
nothing_left "$M"
ifs stop

# The namespace is gone: the mount belongs to the one of the next daemon.
there 'ifs mount -q "$ref" "$M/d" >/dev/null; ifs mount -q --rw "$ref" "$M/c" >/dev/null; echo kept >"$M/c/new"
  kill -9 "$(ifs status --json | field "j[\"pid\"]")"'
ifs ls >/dev/null
wait_for 20 'ifs ls >/dev/null; [ "$(count "$M/d")" != 0 ]' || fail "not mounted again: $(ifs ls)"
wait_for 20 '[ "$(cat "$M/c/new" 2>/dev/null)" = kept ]' || fail "what was written is lost: $(ifs ls)"
same "not elsewhere" 0 "$(elsewhere)"
ifs umount "$M/c" "$M/d"
ifs stop
nothing_left "$M"

# A user's.
command -v fusermount3 >/dev/null && [ -u "$(command -v fusermount3)" ] || {
  echo "NOT TESTED: a user's mount: fusermount3 is not setuid" >&2
  exit 0
}
home='' uid=''
user_home "$T/user"
user() { as_user "$IMAGEFS" --root "$home/root" --run "$home/run" "$@"; }
there "$(declare -f as_user user); home=$home uid=$uid"'
  user mount -q "$ref" "$home/m" >/dev/null; echo ready >"$T/done"; read -r _ <"$T/go"
  same "with the next daemon" "$files" "$(as_user sh -c "cd $home/m && find . | wc -l")"
  user umount "$home/m"; same "unmounted" 0 "$(as_user ls "$home/m" | wc -l)"' &
there=$!
read -r _ <"$T/done"
user stop
same "not here" "$home/m" "$(user ls -q)"
user ls | grep -q 'another namespace' || fail "a user's is taken for its own: $(user ls)"
same "nothing here" 0 "$(ls "$home/m" | wc -l)"
echo >"$T/go"
wait $there || fail "a user's, in the namespace of the first daemon"
wait_for 20 '[ "$(user ls --json | tr -d " \n")" = "[]" ]' || fail "still listed: $(user ls)"
user stop
nothing_left "$home"
