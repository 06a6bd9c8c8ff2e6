#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The daemon has no descriptor left: what is mounted reads right bytes or an error, a command says one line, and when
# there are some again the same process goes on.
. "$(dirname "$0")/../lib/lib.sh"
. "$LIB/lazy.sh"
need_root; need_fuse; need prlimit
start_registry registry
lazy_image app gzip 5 2
publish app
truth app "$T/truth"
big_image other c=1; push "$T/images/other" test/other:1
ref=$REGISTRY/test/app:1
configure '[fill]' 'background = false' 'deadline = "3s"'
refused=0
for mode in $(modes); do
  store "$mode"
  mkdir -p "$M/$mode" "$M/$mode-other"
  ifs mount -q --mode "$mode" "$ref" "$M/$mode" >/dev/null
  pid=$(daemons_of "$RUN")
  limits=$(prlimit --pid "$pid" --nofile --noheadings --raw -o SOFT,HARD)
  # As many as are open; a few numbers among them may be free, and are soon taken.
  prlimit --pid "$pid" --nofile="$(ls "/proc/$pid/fd" | wc -l):${limits#* }"
  status=0
  timeout 60 $PY "$LIB/damage.py" read "$T/truth" "$M/$mode" >"$T/read" 2>&1 || status=$?
  # 1 would be wrong bytes or attributes.
  [ $status = 0 ] || [ $status = 2 ] || fail "$mode: $(cat "$T/read")"
  status=0
  timeout 60 "$IMAGEFS" --root "$ROOT" --run "$RUN" mount -q --mode "$mode" "$REGISTRY/test/other:1" "$M/$mode-other" >/dev/null 2>"$T/err" || status=$?
  [ $status = 0 ] || same "$mode: lines of the error: $(cat "$T/err")" 1 "$(grep -c . "$T/err")"
  [ $status != 0 ] || ifs umount "$M/$mode-other"
  refused=$((refused + (status != 0)))
  # Many more that knock than can be let in: bounded in the log and in time on the processors.
  before=$(grep -c connection_refused "$RUN/daemon.log" || :)
  $PY - "$RUN/control.sock" "$pid" <<'END' || fail "$mode: busy without end"
import socket, sys, time
path, pid = sys.argv[1], sys.argv[2]
def ticks():
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return int(fields[11]) + int(fields[12])
kept = []
for i in range(300):
    one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    one.connect_ex(path)   # fails when the queue is full
    kept.append(one)
time.sleep(1)
first = ticks()
time.sleep(2)
sys.exit(ticks() - first > 100)   # half of one processor
END
  told=$(($(grep -c connection_refused "$RUN/daemon.log") - before))
  [ $told -le 5 ] || fail "$mode: $told lines in the log"
  prlimit --pid "$pid" --nofile="${limits/ /:}"
  wait_for 30 '$PY "$LIB/damage.py" read "$T/truth" "$M/$mode" >"$T/read" 2>&1' || fail "$mode, afterwards: $(cat "$T/read")"
  ifs mount -q --mode "$mode" "$REGISTRY/test/other:1" "$M/$mode-other" >/dev/null || fail "$mode: no mount afterwards"
  same "$mode: the same process" "$pid" "$(daemons_of "$RUN")"
  ifs stop --unmount
done
echo "$refused mounts were refused"
