#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# long
# Once nobody needs a credential any more, the daemon's memory has no copy of it, however it came and wherever it went;
# what a filling mount needs later is there once. No other process of the user may look into the daemon or the command,
# and neither leaves a core file.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_root; need_fuse; need htpasswd; need setpriv; need fusermount3
open_fuse
mkdir -p "$T/plain" "$T/secure" "$M/a"
make_ca "$T/secure"
$PY "$LIB/auth_registry.py" "$T/plain" 2>"$T/plain.log" &
TEST_PIDS+=($!)
$PY "$LIB/auth_registry.py" "$T/secure" --tls "$T/secure/cert.pem" "$T/secure/key.pem" 2>"$T/secure.log" &
TEST_PIDS+=($!)
wait_for 20 "[ -e '$T/plain/port' ] && [ -e '$T/secure/port' ]" || fail "the registries do not start"
read -r plain _ <"$T/plain/port" || true
read -r secure _ <"$T/secure/port" || true
export IMAGEFS_CA_FILE=$T/secure/ca.pem

b64() { printf '%s' "$1" | base64 -w0; }
entry() { printf '{"auths": {"%s": %s}}' "$1" "$2" >"$DOCKER_CONFIG/config.json"; }
pid() { ifs status --json | field 'j["pid"]'; }
LONG=p4ssW0rd-of-alice SHORT='Sh0rt!pw' IDENTITY=1dentity-t0ken-of-alice
ALL=("$LONG" "$SHORT" "$IDENTITY" wr0ng-passw0rd "$(b64 "alice:$LONG")" "$(b64 "alice:$SHORT")" "$(b64 "alice:wr0ng-passw0rd")"
  "$(b64 "<token>:$IDENTITY")")
copies() { $PY "$LIB/memory.py" "$1" "${@:2}" | awk '{ n += $1 } END { print n }'; }
# A thread that has called back may still be on its way home.
clean() {  # clean WHAT
  wait_for 10 "[ \$(copies $(pid) \"\${ALL[@]}\") = 0 ]" && return
  $PY "$LIB/memory.py" --where "$(pid)" "${ALL[@]}" >&2
  fail "$1: the daemon's memory still holds a credential"
}

# The check sees a copy where there is one.
SEEN=s3en-by-the-check sleep 60 &
TEST_PIDS+=($!)
wait_for 10 "[ \$(copies $! s3en-by-the-check) -gt 0 ]" || fail "the check of the memory finds nothing"

for host in "127.0.0.1:$plain" "127.0.0.1:$secure"; do
  for password in "$LONG" "$SHORT"; do
    entry "$host" "{\"auth\": \"$(b64 "alice:$password")\"}"
    for kind in basic own; do
      ifs pull -q --pull always "$host/$kind:1" >/dev/null
      clean "$host/$kind"
    done
    ifs rm "$host/basic:1" "$host/own:1" >/dev/null
  done
  entry "$host" "{\"identitytoken\": \"$IDENTITY\"}"
  ifs pull -q --pull always "$host/identity:1" >/dev/null
  clean "$host/identity"
  entry "$host" '{"username": "alice", "password": "wr0ng-passw0rd"}'
  for kind in basic own led; do
    refuse 5 'credential|login' ifs pull -q --pull always "$host/$kind:1"
    clean "$host/$kind, refused"
  done
done

# A pull that is under way, and is given up: the command and the daemon may be looked at by nobody.
entry "127.0.0.1:$plain" "{\"auth\": \"$(b64 "alice:$LONG")\"}"
ifs stop
store held
"$IMAGEFS" --root "$ROOT" --run "$RUN" pull -q "127.0.0.1:$plain/held:1" 2>"$T/held.err" &
held=$!
TEST_PIDS+=($held)
wait_for 20 "grep -q 'held/blobs' '$T/plain/log'" || fail "the pull does not begin"
echo "copies while a pull is under way: $(copies "$(pid)" "${ALL[@]}")"
for process in $held "$(pid)"; do
  grep -qE '^Max core file size +0 +0 ' "/proc/$process/limits" || fail "process $process may leave a core file"
done
kill -INT $held
wait $held || true
clean "a pull that was given up"
ifs stop

# Id maps need a look at a child of the daemon's, and the unit has no CAP_SYS_PTRACE for it.
if modes | grep -qx kernel; then
  image plain
  store mapped
  setpriv --bounding-set -sys_ptrace --inh-caps -sys_ptrace "$IMAGEFS" --root "$ROOT" --run "$RUN" \
    mount -q --map-uids 0:100000:65536 "oci:$T/images/plain" "$M/a" >/dev/null
  same "owner" 100000 "$(stat -c %u "$M/a/etc/passwd")"
  ifs umount --all
  ifs stop
fi

# The same as another user: not even processes of that user may look.
if [ -u "$(command -v fusermount3)" ] && uid=$(id -u nobody); then
  chmod 711 "$T"
  mkdir "$T/home" && chown "$uid" "$T/home"
  entry "127.0.0.1:$plain" "{\"auth\": \"$(b64 "alice:$LONG")\"}"
  chmod -R a+rX "$DOCKER_CONFIG"
  user() { env -i PATH="$PATH" HOME="$T/home" DOCKER_CONFIG="$DOCKER_CONFIG" setpriv --reuid="$uid" --regid="$uid" --clear-groups --inh-caps=-all "$@"; }
  before=$(grep -c 'held/blobs' "$T/plain/log")
  user "$IMAGEFS" --root "$T/home/store" --run "$T/home/run" pull -q "127.0.0.1:$plain/held:1" 2>/dev/null &
  TEST_PIDS+=($!)
  wait_for 20 "[ \$(grep -c 'held/blobs' '$T/plain/log') -gt $before ]" || fail "the user's pull does not begin"
  user sleep "61.$$" &
  TEST_PIDS+=($!)
  wait_for 10 "pgrep -u $uid -f '^sleep 61.$$' >'$T/sleeper'" || fail "no process of the user's"
  user cat "/proc/$(cat "$T/sleeper")/maps" >/dev/null || fail "a user cannot look at a process of the same user at all"
  looked=0
  for process in $(processes); do
    grep -qxE 'imagefsd?' "/proc/$process/comm" && [ "$(awk '/^Uid/ { print $2 }' "/proc/$process/status")" = "$uid" ] || continue
    looked=$((looked + 1))
    for file in maps mem environ auxv; do
      ! user dd if="/proc/$process/$file" of=/dev/null count=1 2>/dev/null || fail "another process may read $file of $(cat "/proc/$process/comm")"
    done
  done
  same "processes looked at" 2 "$looked"
  user "$IMAGEFS" --root "$T/home/store" --run "$T/home/run" stop --unmount
else
  echo "NOT TESTED: no setuid fusermount3, or no user nobody"
fi

# A mount that fills holds its credential once, for the bytes that are not here yet.
start_registry registry htpasswd
lazy image "$T/images/gzip" gzip
push "$T/images/gzip" test/gzip:1 --user 'tester:se cret:1'
entry "$REGISTRY" "{\"auth\": \"$(b64 'tester:se cret:1')\"}"
publish gzip
for mode in $(modes); do
  store "$mode"
  mkdir -p "$M/$mode"
  ifs mount -q --mode "$mode" --deadline 3 "$REGISTRY/test/gzip:1" "$M/$mode" >/dev/null
  same "state" filling "$(states "$M/$mode")"
  wait_for 10 '[ "$(copies "$(pid)" "se cret:1")" = 1 ]' || fail "$mode: $(copies "$(pid)" 'se cret:1') copies while the mount fills"
  same "headers" 0 "$(copies "$(pid)" "$(b64 'tester:se cret:1')")"
  ifs umount --all
  ifs stop
done
