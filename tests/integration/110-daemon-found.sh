#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# long
# A daemon whose run directory or sockets went away (logind removes the directory at the last logout) is found
# and stopped all the same, by shells with any run directory; one that cannot be reached or hangs is told of; one
# with another store or other settings than asked for is not used; nobody starts another one after a stop.
. "$(dirname "$0")/../lib/lib.sh"
need_root
unset IMAGEFS_CONFIG IMAGEFS_CA_FILE
mkdir "$T/session"
RUN=$T/session/imagefs
at() { timeout -k 5 120 "$IMAGEFS" --root "$ROOT" --run "$@"; }
ifs images >/dev/null
pid=$(daemons)
rm -r "$T/session"
ifs images >/dev/null || fail "not found without its run directory"
at "$T/another/run" images >/dev/null || fail "not found from another run directory"
same "daemons" "$pid" "$(daemons)"
mkdir "$T/session"
wait_for 20 "[ -S '$RUN/control.sock' ]" || fail "the socket is not made again"
rm "$RUN/control.sock" "$ROOT/control.sock"
ifs images >/dev/null || fail "not found once its sockets were deleted"
same "daemons" "$pid" "$(daemons)"
rm -r "$T/session"
same "stopped" "[true, $pid]" "$(at "$T/another" stop --json | field '[j["stopped"], j["pid"]]')"
same "daemons after stop" "" "$(daemons)"
same "nothing to stop" '[false, null]' "$(ifs stop --json | field '[j["stopped"], j["pid"]]')"
refuse 7 'no daemon is running' ifs status

# One that hangs.
mkdir "$T/session"
ifs images >/dev/null
pid=$(daemons)
kill -STOP "$pid"
for verb in images status stop; do
  status=0
  ifs $verb >"$T/out" 2>"$T/err" || status=$?
  same "status of $verb while the daemon hangs" 7 $status
  grep -q "waiting for the daemon with pid $pid" "$T/err" || fail "$verb does not say what it waits for"
  grep -q "the daemon with pid $pid does not answer.*kill -9 $pid" "$T/err" || fail "$verb: $(cat "$T/err")"
done
kill -CONT "$pid"

# Other settings, and another store.
printf '[fill]\nquiet = "5s"\n' >"$T/c.toml"
ln -s c.toml "$T/link.toml"
cp "$T/c.toml" "$T/copy.toml"
refuse 6 "pid $pid.*--config.*imagefs stop" ifs --config "$T/c.toml" images
refuse 6 "pid $pid.*--log-level info.*debug" ifs --log-level debug images
refuse 6 "pid $pid.*without --ca-file" ifs --ca-file "$T/c.toml" images
refuse 6 "pid $pid.*--config" env "IMAGEFS_CONFIG=$T/c.toml" "$IMAGEFS" --root "$ROOT" --run "$RUN" images
refuse 6 "pid $pid.*store $ROOT, not $T/other" "$IMAGEFS" --root "$T/other" --run "$RUN" images
refuse 6 "pid $pid.*store $ROOT, not $T/other" "$IMAGEFS" --root "$T/other" --run "$RUN" stop
for verb in images status stop; do
  refuse 4 'nonexistent: No such file' ifs --config "$T/nonexistent" $verb
  refuse 4 'nonexistent: No such file' ifs --ca-file "$T/nonexistent" $verb
done
ifs --log-level info images >/dev/null
ifs --log-level debug --config "$T/c.toml" stop
(cd "$T" && ifs --config c.toml images >/dev/null) || fail "a relative path of a configuration"
ifs --config "$T/link.toml" images >/dev/null
refuse 6 'with --config' ifs --config "$T/copy.toml" images
ifs stop

# A stop while somebody waits.
image plain
start_registry registry
push "$T/images/plain" test/a:1 >/dev/null
start_proxy proxy
mkdir "$M/a"
for unmount in "" --unmount; do
  rules "[{\"path\": \"manifests\", \"hold\": \"$T/go\"}]"
  : >"$BEGAN"
  ifs mount "$PROXY/test/a:1" "$M/a" >"$T/waiting" 2>&1 & waiting=$!
  wait_for 20 "grep -q manifests '$BEGAN'" || fail "no request"
  ifs stop $unmount
  status=0
  wait $waiting || status=$?
  touch "$T/go"
  same "status of the command that waited" 7 $status
  grep -q 'the daemon was stopped' "$T/waiting" || fail "it says: $(cat "$T/waiting")"
  same "daemons after stop $unmount" "" "$(daemons)"
  nothing_left "$M"
  rm "$T/go"
done
