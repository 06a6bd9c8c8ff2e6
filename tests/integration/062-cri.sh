#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# containerd 1.6 and 2 over the daemon as their snapshotter, by the container runtime interface: a cold pull of an image
# whose every layer is answered lazily (an empty one, a tiny one and one of whiteouts too), containers that write, a
# restart and a kill -9 of the daemon under them, removal that leaves nothing.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/containerd.sh"
. "$(dirname "$0")/../lib/snapshots.sh"
need_containerd 1; need_containerd 2
start_registry registry
start_proxy line
plain_host "$PROXY"
pause_image
layered_image app
ref=$PROXY/test/app:1
for version in 1 2; do
  ROOT=$T/root$version RUN=$T/run$version
  : >"$REQUESTS"
  serve
  start_containerd "containerd$version" $version imagefs
  cri pull --parallel 4 "$ref" >"$T/pulled"
  same "pulls" '[4, 0]' "$(field '[len(j["pulls"]), j["failed"]]' <"$T/pulled")"
  requests layers "$T/images/app"
  same "unpacked layers" 0 "$(counter snapshot_layers_unpacked)"
  same "committed" 5 "$(snapshots k8s.io | grep -c Committed)"

  pod=$(pod "lazy$version")
  id=$(container "$pod" "lazy$version" one "$ref" sh -c 'echo first; exec sleep 1000')
  other=$(container "$pod" "lazy$version" two "$ref" sleep 1000)
  exec_in() { cri exec-sync "$1" sh -c "$2" | field 'j["stdout"].rstrip()'; }
  same "merged" three "$(exec_in "$id" 'cat /etc/motd')"
  same "whiteout" none "$(exec_in "$id" '[ -e /gone ] && echo there || echo none')"
  same "bytes" "$($PY -c 'import random; import hashlib
print(hashlib.sha256(random.Random(299).randbytes(4000 + 37 * 299)).hexdigest())')" \
    "$(exec_in "$id" 'sha256sum /data/299' | cut -d" " -f1)"
  same "writes" "two 750" "$(exec_in "$id" 'echo two >/etc/motd; rm /data/5; mkdir /new; cat /etc/motd; stat -c %a /data' | tr '\n' ' ' | sed 's/ $//')"
  same "written by one only" three "$(exec_in "$other" 'cat /etc/motd')"

  # The daemon is restarted, then killed, under running containers; new ones start from what it knows.
  for how in TERM KILL; do
    before=$(snapshots k8s.io)
    stop_serving $how
    same "without a daemon" "two" "$(exec_in "$id" 'cat /etc/motd')"
    same "unread so far" 4370 "$(exec_in "$other" 'stat -c %s /data/10; cat /data/10 >/dev/null && cat /bin/find >/dev/null' )"
    serve
    # containerd comes back to a socket that refused it after a second or more (socket activation spares it that).
    wait_for 20 "snapshots k8s.io >/dev/null 2>&1" || fail "containerd does not come back"
    same "snapshots" "$before" "$(snapshots k8s.io)"
    later=$(container "$pod" "lazy$version" "after$how" "$ref" sleep 1000)
    same "a later one" three "$(exec_in "$later" 'cat /etc/motd')"
    same "the first one" "two" "$(exec_in "$id" 'cat /etc/motd')"
    requests layers "$T/images/app"
  done

  for container in $(cri ps | field '" ".join(c["id"] for c in j)'); do cri stop "$container" >/dev/null; cri rm "$container" >/dev/null; done
  remove_pod "$pod"
  for image in $(cri images | field '" ".join(i["id"] for i in j)'); do cri rmi "$image" >/dev/null; done
  wait_for 30 '[ "$(counter snapshots)" = 0 ]' || fail "snapshots stay: $(snapshots k8s.io)"
  wait_for 30 '[ -z "$(ls "$ROOT/layers" "$ROOT/chains" "$ROOT/snapshots" | grep -v :)" ]' || fail "files stay: $(ls "$ROOT"/*)"
  same "mounts" "" "$(mounts_below "$RUN")"
  stop_containerd
  stop_serving
done
