#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A registry that takes connections and says nothing, and one that is overloaded: the progress says which attempt runs and
# why, and --timeout ends the wait with the same words.
. "$(dirname "$0")/../lib/lib.sh"
cat >"$T/silent.py" <<'PY'
"""silent.py DIR: takes connections and never answers; writes its port to DIR/silent."""
import os, socket, sys, time
server = socket.create_server(("127.0.0.1", 0), backlog=64)
with open(sys.argv[1] + "/silent.new", "w") as file:
    file.write(str(server.getsockname()[1]))
os.rename(sys.argv[1] + "/silent.new", sys.argv[1] + "/silent")
taken = []
while True:
    taken.append(server.accept())
PY
$PY "$T/silent.py" "$T" &
TEST_PIDS+=($!)
wait_for 20 "[ -e '$T/silent' ]" || fail "no silent registry"
silent=127.0.0.1:$(cat "$T/silent")
! ifs pull --timeout 14 "$silent/a/b:1" >"$T/out" 2>"$T/err" || fail "a silent registry has an image"
grep -q "^resolving: .*$silent has sent nothing for 10 s, attempt 2 of 5" "$T/err" || fail "the progress: $(cat "$T/err")"
tail -1 "$T/err" | grep -q "^imagefs: .*not done after 14 s (--timeout): .*$silent has sent nothing for 10 s, attempt 2 of 5" ||
  fail "the message: $(cat "$T/err")"

start_registry registry
image plain
push "$T/images/plain" test/app:1 >/dev/null
start_proxy line
rules '[{"path": "/manifests/", "status": 503, "times": 2}]'
ifs pull "$PROXY/test/app:1" >"$T/out" 2>"$T/err" || fail "$(cat "$T/err")"
grep -q "^resolving: .*HTTP status 503, attempt [23] of 5" "$T/err" || fail "the progress: $(cat "$T/err")"
# mount(8) passes options on.
mkdir -p "$T/m"
refuse 9 'not done after 1 s' ifs mount -q -o timeout=1 "$silent/a/b:1" "$T/m"
refuse 2 'takes a number of seconds' ifs mount -q -o timeout=0 "$silent/a/b:1" "$T/m"
