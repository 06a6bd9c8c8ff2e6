#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The kernel kills the daemon for want of memory, under readers: they get right bytes or an error, from the
# next daemon as well, which shows what was mounted, with the right bytes.
. "$(dirname "$0")/../lib/lib.sh"
. "$LIB/lazy.sh"
need_root; need_fuse
if grep -qs memory /sys/fs/cgroup/cgroup.subtree_control; then
  GROUP=/sys/fs/cgroup/imagefs-test-$$ LIMIT=memory.max SWAP=memory.swap.max
else
  GROUP=/sys/fs/cgroup/memory/imagefs-test-$$ LIMIT=memory.limit_in_bytes SWAP=memory.memsw.limit_in_bytes
fi
mkdir "$GROUP" 2>/dev/null && [ -e "$GROUP/$LIMIT" ] || skip "no control group for memory"
AT_END+=(no_group)
no_group() { slay $(cat "$GROUP/cgroup.procs"); wait_for 10 'rmdir "$GROUP" 2>/dev/null'; }
start_registry registry
lazy_image app gzip 5 6
publish app
truth app "$T/truth"
ref=$REGISTRY/test/app:1
killed=0
alive() { readlink "/proc/$1/exe" >/dev/null 2>&1; }
for mode in $(modes); do
  store "$mode"
  mkdir -p "$M/$mode"
  ifs mount -q --mode "$mode" "$ref" "$M/$mode" >/dev/null
  pid=$(daemons_of "$RUN")
  echo "$pid" >"$GROUP/cgroup.procs"
  # Memory from before does not count in the group; what is taken from now on does.
  echo 2M >"$GROUP/$LIMIT"
  echo 2M >"$GROUP/$SWAP" 2>/dev/null || echo 0 >"$GROUP/$SWAP" 2>/dev/null || true
  timeout -s KILL 100 $PY "$LIB/damage.py" read "$T/truth" "$M/$mode" >"$T/read" 2>&1 & reader=$!
  wait_for 40 '! alive "$pid" || ! kill -0 "$reader" 2>/dev/null' || true
  timeout 20 "$IMAGEFS" --root "$ROOT" --run "$RUN" pull -q "$ref" >/dev/null 2>&1 || true
  alive "$pid" || killed=$((killed + 1))
  echo 1G >"$GROUP/$SWAP" 2>/dev/null || true
  echo 1G >"$GROUP/$LIMIT"
  # Another one, outside of the group, or the same with memory again.
  ifs ls >/dev/null || fail "$mode: no daemon afterwards"
  status=0
  wait "$reader" || status=$?
  [ $status = 0 ] || [ $status = 2 ] || fail "$mode, under the limit: $status $(cat "$T/read")"
  wait_for 30 '$PY "$LIB/damage.py" read "$T/truth" "$M/$mode" >"$T/read" 2>&1' || fail "$mode, afterwards: $(cat "$T/read")"
  ifs stop --unmount
done
echo "the kernel killed $killed daemons"
