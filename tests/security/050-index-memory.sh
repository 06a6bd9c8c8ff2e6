#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# long
# Images whose indexes are an attack: large ones, bombs, lies about sizes, trees out of nothing, bytes that never come. They
# cost the daemon no more memory than index.memory allows, each refusal is one line, and another image is shown meanwhile.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_fuse; need zstd
start_registry registry
lazy_image app gzip 5 6
publish app
truth app "$T/truth"
layers=48
# Of the daemon, in MiB, with what its code and threads take.
peak() { awk '/VmHWM/ {print int($2 / 1024)}' "/proc/$(daemons_of "$RUN")/status"; }
hostile() {
  rm -f "$T/port"
  $PY "$TESTS/security/hostile_index.py" "$1" "$T/port" $layers &
  TEST_PIDS+=($!)
  hostile_pid=$!
  wait_for 60 '[ -e "$T/port" ]' || fail "no registry of $1"
}
honest() {
  mkdir -p "$M/honest"
  ifs mount -q --mode fuse "$REGISTRY/test/app:1" "$M/honest" >/dev/null || fail "$1: the honest image is not shown"
  same "$1: honest layers" filling "$(states "$M/honest")"
  cmp "$T/truth/etc/4096" "$M/honest/etc/4096" || fail "$1: wrong bytes"
  ifs umount "$M/honest"
}

# kind:lines: how many layers are refused, each by a line of the log.
for what in big:48 big-layer:48 largest:48 bomb:48 bomb-largest:48 bomb-that-lies:48 longer-than-said:48 \
  profiles:48 toc-bomb:48 toc-that-lies:48 toc-window:48 toc-gzip-bomb:48 toc-gzip-that-lies:48 toc-of-directories:48; do
  kind=${what%:*}
  store "$kind"
  hostile "$kind"
  ifs ls >/dev/null
  mkdir -p "$M/hostile"
  began=${EPOCHREALTIME/./}
  timeout 100 "$IMAGEFS" --root "$ROOT" --run "$RUN" mount -q --mode fuse "$(cat "$T/port")/x:1" "$M/hostile" 2>"$T/err" &&
    fail "$kind: a mount without layers"
  [ "$(wc -l <"$T/err")" = 1 ] || fail "$kind: $(cat "$T/err")"
  honest "$kind"
  echo "$kind: peak $(peak) MiB, $(((${EPOCHREALTIME/./} - began) / 1000)) ms, $(grep -m1 -o 'index\.refused.*' "$RUN/daemon.log" | cut -c1-200)"
  same "$kind: refused" "${what#*:}" "$(grep -c 'index\.refused' "$RUN/daemon.log" || true)"
  [ "$(peak)" -lt 150 ] || fail "$kind: the daemon took $(peak) MiB"
  find "/proc/$(daemons_of "$RUN")/fd" -lname '*(deleted)' | grep . && fail "$kind: files that nobody needs stay open"
  ifs stop
  slay $hostile_pid 2>/dev/null
  rm -rf "${ROOT:?}"
done

# Indexes that never come: their image waits, by itself, and leaves when nobody wants it.
store slow
hostile slow
ifs ls >/dev/null
"$IMAGEFS" --root "$ROOT" --run "$RUN" mount -q --mode fuse "$(cat "$T/port")/x:1" "$M/hostile" &
wait_for 20 '[ "$(find "/proc/$(daemons_of "$RUN")/fd" -lname "*(deleted)" 2>/dev/null | wc -l)" -ge 8 ]' || fail "no index is being fetched"
honest slow
honest slow
kill $!
wait_for 20 '! find "/proc/$(daemons_of "$RUN")/fd" -lname "*(deleted)" | grep -q .' || fail "the indexes of one who left stay"
[ "$(peak)" -lt 150 ] || fail "slow: the daemon took $(peak) MiB"
