#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Containers whose bytes are not here yet, over either containerd: a published index makes a pull a matter of small
# requests; what is read is fetched once, whoever reads it; a registry that dies under a Prepare, a layer that is not what
# the manifest says, a pull that is given up, a collector that runs at the same time.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/containerd.sh"
. "$(dirname "$0")/../lib/snapshots.sh"
. "$(dirname "$0")/../lib/lazy.sh"
configure '[fill]' 'background = false' '[containerd]' 'lazy = "repository"'
need_containerd 1; need_containerd 2
start_registry registry
start_shaper line
plain_host "$SHAPED"
pause_image
layered_image app
ref=$SHAPED/test/app:1
exec_in() { cri exec-sync "$1" sh -c "$2" | field 'j["stdout"].rstrip()'; }
total=$(cat "$T/images/app"/blobs/sha256/* | wc -c)

publish app
for version in 1 2; do
  store "node$version"
  serve --config "$T/config.toml"
  start_containerd "containerd$version" $version imagefs
  forget_requests
  cri pull "$ref" >"$T/pulled"
  same "fetched by the pull" true "$($PY -c "print('true' if $(sent app) * 20 < $total else $(sent app))")"
  pod=$(pod "lazy$version")
  id=$(container "$pod" "lazy$version" main "$ref" sleep 1000)
  same "a container of it" three "$(exec_in "$id" 'cat /etc/motd')"
  same "not all was fetched" true "$($PY -c "print('true' if $(sent app) < $total else $(sent app))")"
  same "states" filling "$(ifs status --json | field '" ".join(sorted({l["state"] for l in j["layers"] if l["data_bytes"] > 1 << 20}))')"
  # Twenty readers of everything, in two containers.
  other=$(container "$pod" "lazy$version" other "$ref" sleep 1000)
  for i in $(seq 10); do
    for reader in "$id" "$other"; do exec_in "$reader" 'cat /data/* | sha256sum' >"$T/sum.$i.$reader" & done
  done
  wait $(jobs -p | grep -vxF "$(printf '%s\n' "${TEST_PIDS[@]}" "$(cat "$CONTAINERD/pid")")")
  same "what they read" 1 "$(sort -u "$T"/sum.* | wc -l)"
  same "and that is right" "$($PY -c 'import hashlib, random
h = hashlib.sha256()
for k in sorted(map(str, range(300))): h.update(random.Random(int(k)).randbytes(4000 + 37 * int(k)))
print(h.hexdigest())')" "$(cut -d" " -f1 "$T/sum.1.$id")"
  rm -f "$T"/sum.*
  lazy once "$SHAPER/requests" "$T/images/app" || fail "bytes were fetched twice"
  for container in "$id" "$other"; do cri stop "$container" >/dev/null; cri rm "$container" >/dev/null; done
  remove_pod "$pod"
  cri rmi "$ref" >/dev/null
  cri rmi "$PAUSE" >/dev/null
  wait_for 30 '[ "$(counter snapshots)" = 0 ] && [ -z "$(ls "$ROOT/layers" "$ROOT/chains" "$ROOT/snapshots" | grep -v :)" ]' || fail "files stay: $(ls "$ROOT"/*)"
  same "mounts" "" "$(mounts_below "$RUN")"
  stop_containerd; stop_serving
done
