#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The daemon on sockets of a service manager: the first command starts it, no command is refused while it
# is started again, the sockets outlive it; what the manager is told.
. "$(dirname "$0")/../lib/lib.sh"
need_root; need_fuse; need systemd-socket-activate
image plain

# systemd's own helper: the first command starts the daemon, and later ones meet the same one.
mkdir -m 711 "$RUN"
systemd-socket-activate --listen="$RUN/control.sock" --listen="$RUN/other.sock" --fdname=control:other \
  "$IMAGEFS" --root "$ROOT" --run "$RUN" daemon --idle-exit 1 2>"$T/activate.log" &
activated=$!
TEST_PIDS+=($activated)
wait_for 10 "[ -S '$RUN/other.sock' ]" || fail "no socket"
same "no daemon before the first command" "" "$(daemons)"
same "the daemon's pid" $activated "$(ifs status --json | field 'j["pid"]')"
grep -q 'passed_socket_closed name=other' "$T/activate.log" || fail "an unknown socket is not told of"
mkdir "$M/a"
ifs mount -q --mode fuse "oci:$T/images/plain" "$M/a" >/dev/null
grep -q root "$M/a/etc/passwd"
ifs umount "$M/a"
wait_for 20 "[ -z \"\$(daemons)\" ]" || fail "an idle daemon does not end"
[ -S "$RUN/control.sock" ] || fail "the daemon removed a socket that is not its own"
rm -r "$RUN"

# A manager that starts it again and again, and hears what it says.
manager() {  # manager COMMAND...: on sockets of $RUN
  rm -rf "$T/manager" "$RUN"; mkdir -m 711 "$RUN"; mkdir "$T/manager"
  $PY "$LIB/activate.py" "$T/manager" "$@" &
  MANAGER=$!
  TEST_PIDS+=($MANAGER)
  wait_for 10 "[ -e '$T/manager/ready' ]" || fail "the manager does not start"
}
notified() { grep -cE "^[0-9]+ $1" "$T/manager/notified" || true; }
manager --env WATCHDOG_USEC=400000 "control=$RUN/control.sock" "snapshotter=$RUN/snapshotter.sock" \
  "cri=$RUN/cri.sock" -- "$IMAGEFS" --root "$ROOT" --run "$RUN" daemon
ifs mount -q --mode fuse "oci:$T/images/plain" "$M/a" >/dev/null
same "READY" 1 "$(notified READY=1)"
same "STATUS" 1 "$(notified "STATUS=Serving $ROOT")"
wait_for 10 '[ "$(notified WATCHDOG=1)" -ge 3 ]' || fail "no pings"

# A loop that does not turn does not ping.
pid=$(daemons)
kill -STOP "$pid"
before=$(notified WATCHDOG=1)
sleep 1.2
after=$(notified WATCHDOG=1)
[ "$after" -le $((before + 1)) ] || fail "pings from a stopped daemon: $before, $after"
kill -CONT "$pid"
wait_for 10 "[ \"\$(notified WATCHDOG=1)\" -gt $after ]" || fail "no pings again"

# Commands without pause while the daemon is stopped, and killed, several times: none is refused, none
# starts a daemon of its own, and the mount is there in the end.
client() {
  until [ -e "$T/stopped" ]; do ifs images --json >/dev/null || return 1; done
}
running() { local pid; pid=$(daemons); [ -n "$pid" ] && grep -q "^$pid READY=1" "$T/manager/notified"; }
stopper() {
  local k pid
  for k in 1 2 3 4 5; do
    wait_for 20 running || return 1
    pid=$(daemons)
    kill -TERM "$pid"
    wait_for 20 "grep -q '^$pid ended' '$T/manager/notified'" || return 1
  done
}
{ stopper && touch "$T/stopped.well"; touch "$T/stopped"; } &
storm 6 client
[ -e "$T/stopped.well" ] || fail "the daemon was not stopped five times"
same "daemons that were told to end" 5 "$(notified 'ended 0')"
ifs images >/dev/null
same "daemons" 1 "$(daemons | wc -w)"
same "whose" "$MANAGER" "$(awk '/^PPid/ {print $2}' "/proc/$(daemons)/status")"
grep -q root "$M/a/etc/passwd" || fail "the mount did not come back"

# A connection that nobody has accepted yet is served by the next daemon.
old=$(daemons)
kill -STOP "$old"
ends() { grep -c " $RUN/control.sock$" /proc/net/unix; }   # the listener, and who has connected
before=$(ends)
ifs images >"$T/waiting" 2>&1 & waiting=$!
wait_for 10 '[ "$(ends)" -gt "$before" ]' || fail "nobody in the queue"
kill -9 "$old"
wait $waiting || { cat "$T/waiting"; fail "the command that waited was refused"; }
[ "$(daemons)" != "$old" ] || fail "the same daemon"

# `stop` waits for the daemon itself, not for the manager that listens.
timeout 30 "$IMAGEFS" --root "$ROOT" --run "$RUN" stop --unmount
wait_for 10 "[ -z \"\$(daemons)\" ]" || fail "stop returned before the end"
for name in control snapshotter cri; do [ -S "$RUN/$name.sock" ] || fail "$name.sock is gone"; done
nothing_left "$M"

# A daemon that cannot start says why to whoever waits, commands and containerd, and is tried again when the
# configuration changes; before it fails it holds out for a while, so that it is not started every second.
[ -z "$(daemons)" ] || fail "a daemon is left"
kill "$MANAGER"
printf '[fill]\ndedline = "5s"\n' >"$T/config.toml"
manager "control=$RUN/control.sock" "snapshotter=$RUN/snapshotter.sock" -- \
  "$IMAGEFS" --root "$ROOT" --run "$RUN" --config "$T/config.toml" daemon
for verb in images status "umount $M/a" stop "mount -q oci:$T/images/plain $M/a"; do
  refuse 7 'config.toml:2: fill.dedline is not known' ifs $verb
done
same "code" '"no_daemon"' "$( (ifs --json images 2>/dev/null || true) | field 'json.dumps(j["error"]["code"])')"
wait_for 30 "grep -q 'ended 7' '$T/manager/notified'" || fail "it does not fail in the end"
same "starts until then" 1 "$(notified started)"
same "the manager is told why" 1 "$(notified 'STATUS=the daemon does not start: .*dedline')"
refuse 7 'fill.dedline' ifs images
refuse 7 'config.toml:2: fill.dedline is not known' "$IMAGEFS" --check-config "$T/config.toml"
echo >"$T/config.toml"
same "a configuration that is right" OK "$("$IMAGEFS" --check-config "$T/config.toml")"
ifs images >/dev/null || fail "the new configuration is not tried"
same "READY" 1 "$(notified READY=1)"
