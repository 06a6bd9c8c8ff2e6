#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# long
# An image's index is published after its first mount without anybody waiting (index.publish). The daemon is
# stopped at each step of that: it ends soon and without a fault, leaves nothing, and the next one goes on.
# (Span tables are made by threads of the lowest urgency: on a busy machine a step takes long to come.)
# Its idle end waits for a publication. Run with a daemon that was built with a sanitizer it finds more.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_root; need_fuse
start_registry registry
start_shaper line
export ASAN_OPTIONS=${ASAN_OPTIONS:-detect_leaks=0}

# The request at which a publication stands still, by step.
declare -A at=(
  [asks]='{"path": "/manifests/sha256-", "method": "GET", "delay": 3600}'
  [fetches]='{"path": "/blobs/sha256", "method": "GET", "delay": 3600}'
  [looks]='{"path": "/blobs/sha256", "method": "HEAD", "delay": 3600}'
  [begins]='{"path": "/blobs/uploads/", "method": "POST", "delay": 3600}'
  [sends]='{"path": "/blobs/uploads/", "method": "PATCH|PUT", "delay": 3600}'
  [lists]='{"path": "/manifests/", "method": "PUT", "delay": 3600}'
  [tags]='{"path": "[.]imagefs$", "method": "PUT", "delay": 3600}'
)
stands() { [ "$(shape state | field 'j["rules"][0]["used"]')" -gt 0 ]; }
start() { "${IMAGEFS}d" --root "$ROOT" --run "$RUN" --config "$T/config.toml" daemon "$@" >>"$RUN.log" 2>&1 & DAEMON=$!
  TEST_PIDS+=($DAEMON); wait_for 30 '[ -S "$RUN/control.sock" ]' || fail "no daemon: $(cat "$RUN.log")"; }
ended() { ! kill -0 "$DAEMON" 2>/dev/null || grep -q '^State:.Z' "/proc/$DAEMON/status"; }
whole() {  # whole NAME WHAT: what is mounted is right, and the store has nothing half-made
  diff -r --no-dereference -x null -x pipe "$T/truth-$1" "$M/$1" >/dev/null || fail "$2: wrong bytes"
  same "$2: what is half-made" "" "$(find "$ROOT/layers" "$ROOT/blobs" -name '*tmp*' 2>/dev/null)"
}

seed=10
for step in asks fetches looks begins sends lists tags; do
  for how in stop TERM KILL; do
    name=$step-${how,,}; seed=$((seed + 1))
    lazy_image "$name" gzip $seed 1
    truth "$name" "$T/shown"
    cp -a "$T/shown" "$T/truth-$name"
    (store truth; ifs umount "$T/shown")
    store "$name"; mkdir -p "$M/$name"
    shape rules '[]' >/dev/null
    if [ $step = fetches ]; then
      # Tables that are gone are made again, for which each blob is fetched once more.
      configure '[fill]' 'background = false'
      start
      ifs mount -q --mode fuse --eager "$REGISTRY/test/$name:1" "$M/$name" >/dev/null
      ifs umount "$M/$name"
      ifs stop; wait_for 30 ended || fail "$name: the first daemon does not end"
      rm -f "$ROOT"/layers/*/access
    fi
    configure '[fill]' 'background = false' '[index]' 'publish = true' 'publish_spread = "off"'
    start
    shape rules "[${at[$step]}]" >/dev/null
    ifs mount -q --mode fuse --eager --pull always "$SHAPED/test/$name:1" "$M/$name" >/dev/null
    wait_for 300 stands || fail "$name: no publication comes so far: $(tail -n 5 "$RUN.log"); $(tail -n 5 "$SHAPER/requests")"
    if [ $how = stop ]; then ifs stop; else kill -$how $DAEMON; fi
    wait_for 30 ended || fail "$name: the daemon does not end"
    status=0; wait $DAEMON 2>/dev/null || status=$?
    [ $how = KILL ] || same "$name: exit status" 0 $status
    ! grep -qE 'ERROR: |runtime error|SUMMARY|terminate called' "$RUN.log" || fail "$name: $(grep -E -A20 'ERROR: |runtime error' "$RUN.log")"
    shape rules '[]' >/dev/null
    for m in $(mounts_below "$M/$name"); do umount -l "$m"; done
    start
    wait_for 30 'mountpoint -q "$M/$name"' || ifs mount -q --mode fuse "$SHAPED/test/$name:1" "$M/$name" >/dev/null
    whole "$name" "$name"
    ifs umount --all; ifs stop; wait_for 30 ended || fail "$name: the second daemon does not end"
    rm -rf "$ROOT" "$T/truth-$name"
  done
done

# The idle end waits for a publication that goes on, however short its time is.
lazy_image idle gzip 9 1
store idle; mkdir -p "$M/idle"
shape rules '[{"path": "/manifests/", "method": "PUT", "delay": 4}]' >/dev/null
start --idle-exit 1
ifs mount -q --mode fuse --eager "$SHAPED/test/idle:1" "$M/idle" >/dev/null
wait_for 300 stands || fail "no publication"
ifs umount --all
wait_for 120 ended || fail "the daemon never ends"
grep -q 'index.published' "$RUN.log" || fail "the daemon ended before its publication: $(cat "$RUN.log")"
grep -q 'idle_exit' "$RUN.log" || fail "it did not end by itself: $(cat "$RUN.log")"
