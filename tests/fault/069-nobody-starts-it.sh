#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# long
# A daemon that a command started is killed, and no command comes: readers wait for ten seconds and go on, as root and as
# a user. After `stop` nobody starts one but a command.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_root; need_fuse
open_fuse
start_registry registry
start_shaper line
lazy_image app gzip 1 8
publish app
truth app "$T/truth"
m=$M/m
mkdir "$m"
shape set rate=300kB >/dev/null
ifs mount -q --mode fuse "$SHAPED/test/app:1" "$m" >/dev/null
first=$(daemons_of "$RUN")
slay $first
shape set rate=0 >/dev/null
# umount(8), ls and cp would wait for ever.
timeout -s KILL 100 $PY "$LIB/tree.py" compare "$T/truth" "$m" --disarmed || fail "another tree, or nobody started a daemon"
second=$(daemons_of "$RUN")
[ -n "$second" ] && [ "$second" != "$first" ] || fail "daemons: $second"
grep -q "mounts wait for a daemon, starting one" "$RUN/daemon.log" || fail "the log does not say it"
same "state" complete "$(ifs pull -q --wait "$m" >/dev/null; states "$m")"
# It is one like the first: it would be started again, and it ends when it is told to.
ifs stop >/dev/null 2>&1
sleep 12
same "daemons after stop" "" "$(daemons_of "$RUN")"
timeout 20 "$IMAGEFS" --root "$ROOT" --run "$RUN" ls >/dev/null
timeout -s KILL 20 $PY "$LIB/tree.py" compare "$T/truth" "$m" --disarmed || fail "another tree after stop"
ifs umount "$m"
nothing_left "$m"

# A user's, twice.
if [ -u "$(command -v fusermount3)" ]; then
  home=$T/home
  user_home "$home"
  user() { as_user "$IMAGEFS" --root "$home/store" --run "$home/run" "$@"; }
  user mount -q "$SHAPED/test/app:1" "$home/m" >/dev/null
  file=usr/lib/random
  for round in 1 2; do
    first=$(daemons_of "$home/run")
    slay $first
    as_user timeout -s KILL 100 cat "$home/m/$file" | cmp - "$T/truth/$file" || fail "a user's, round $round"
    second=$(daemons_of "$home/run")
    [ -n "$second" ] && [ "$second" != "$first" ] || fail "a user's daemons, round $round: $second"
    echo 1 >/proc/sys/vm/drop_caches
  done
  user umount "$home/m"
  user stop
fi
