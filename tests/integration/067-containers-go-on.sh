#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A container that started while its image came, over either containerd: the daemon is killed and stopped, while layers
# still come and when all is here. What runs in the container reads on without an error, and so does what is started in
# it afterwards.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/containerd.sh"
. "$(dirname "$0")/../lib/snapshots.sh"
. "$(dirname "$0")/../lib/lazy.sh"
configure '[fill]' 'background = false' 'deadline = "60s"' '[containerd]' 'lazy = "repository"'
need_containerd 1; need_containerd 2
start_registry registry
start_shaper line
plain_host "$SHAPED"
pause_image
layered_image app
ref=$SHAPED/test/app:1
want=$($PY -c 'import hashlib, random
h = hashlib.sha256()
for k in sorted(map(str, range(300))): h.update(random.Random(int(k)).randbytes(4000 + 37 * int(k)))
print(h.hexdigest())')
publish app
exec_in() { cri exec-sync "$1" sh -c "$2" | field 'j["stdout"].rstrip()'; }
layer_states() { ifs status --json | field '" ".join(sorted({l["state"] for l in j["layers"] if l["data_bytes"] > 1 << 20}))'; }
for version in 1 2; do
  store "node$version"
  serve --config "$T/config.toml"
  start_containerd "containerd$version" $version imagefs
  shape set rate=0 >/dev/null
  cri pull "$ref" >/dev/null
  pod=$(pod "on$version")
  shape set rate=400kB >/dev/null
  # Each turn reads all of it; what was read is dropped, so that the next turn asks the daemon.
  id=$(container "$pod" "on$version" main "$ref" sh -c \
    'while [ ! -e /stop ]; do cat /data/* | sha256sum >>/sums || echo failed >>/sums; sleep 0.1; done; sleep 1000' 2>&1)
  same "$version: states" filling "$(layer_states)"
  for how in KILL TERM KILL; do
    sleep 1
    kill -$how "$DAEMON"
    wait_for 30 "! kill -0 $DAEMON 2>/dev/null || grep -q '^State:.Z' /proc/$DAEMON/status" || fail "the daemon does not end"
    serve --config "$T/config.toml"
  done
  shape set rate=0 >/dev/null
  wait_for 60 'exec_in "$id" "cat /sums 2>/dev/null" | grep -q .' || fail "$version: it read nothing"
  ifs pull -q "$ref" >/dev/null
  wait_for 30 '[ "$(layer_states)" = complete ]' || fail "$version: never complete: $(layer_states)"
  for how in KILL TERM; do
    echo 1 >/proc/sys/vm/drop_caches
    kill -$how "$DAEMON"
    wait_for 30 "! kill -0 $DAEMON 2>/dev/null || grep -q '^State:.Z' /proc/$DAEMON/status" || fail "the daemon does not end"
    serve --config "$T/config.toml"
    echo 1 >/proc/sys/vm/drop_caches
    same "$version: what is started in it" three "$(exec_in "$id" 'cat /etc/motd')"
  done
  exec_in "$id" 'touch /stop' >/dev/null
  sums=$(exec_in "$id" 'cat /sums' | cut -d" " -f1)
  same "$version: what it read" "$want" "$(sort -u <<<"$sums")"
  echo "containerd $version: $(wc -l <<<"$sums") passes over all files, 5 daemons"
  cri stop "$id" >/dev/null; cri rm "$id" >/dev/null
  remove_pod "$pod"
  cri rmi "$ref" >/dev/null
  cri rmi "$PAUSE" >/dev/null
  wait_for 30 '[ "$(counter snapshots)" = 0 ]' || fail "snapshots stay"
  wait_for 30 '[ -z "$(mounts_below "$RUN")" ]' || fail "mounts stay: $(mounts_below "$RUN")"
  stop_containerd; stop_serving
done
