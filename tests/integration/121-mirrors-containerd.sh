#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Pulls by either containerd through a mirror of its hosts.toml stay lazy: the daemon asks the same mirror, with the
# registry's name, for hardly more than it would ask the registry itself.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/containerd.sh"
. "$(dirname "$0")/../lib/snapshots.sh"
. "$(dirname "$0")/../lib/lazy.sh"
. "$(dirname "$0")/../lib/hosts.sh"
configure_hosts '[containerd]' 'lazy = "repository"'
need_containerd 1; need_containerd 2
start_registry registry
start_shaper line
plain_host "$SHAPED"
pause_image
layered_image app
publish app
host_file registry.test <<<"server = \"http://127.0.0.1:$(free_port)\"
[host.\"http://$SHAPED\"]
  capabilities = [\"pull\", \"resolve\"]"
asked() { $PY -c 'import json, sys; print(sum("imagefs/" in json.loads(line).get("agent", "imagefs/") for line in open(sys.argv[1])))' "$SHAPER/requests"; }

for version in 1 2; do
  declare -A requests=()
  for ref in "$SHAPED/test/app:1" registry.test/test/app:1; do
    what="containerd $version, $ref"
    store "node$version-${ref%%[.:]*}"
    serve --config "$T/config.toml"
    start_containerd "containerd$version-${ref%%[.:]*}" $version imagefs
    forget_requests
    cri pull "$ref" >"$T/pulled"
    same "$what: unpacked" 0 "$(counter snapshot_layers_unpacked)"
    [ "$(counter snapshot_layers_lazy)" -gt 0 ] || fail "$what: nothing is lazy"
    requests[$ref]=$(wc -l <"$SHAPER/requests")
    pod=$(pod "pod$version")
    id=$(container "$pod" "pod$version" main "$ref" sleep 1000)
    same "$what: a container" three "$(cri exec-sync "$id" cat /etc/motd | field 'j["stdout"].rstrip()')"
    # Long after the pull, by the same way.
    same "$what: late reads" 300 "$(cri exec-sync "$id" sh -c 'cat /data/* | wc -c >/dev/null; ls /data | wc -l' | field 'j["stdout"].strip()')"
    cri stop "$id" >/dev/null; cri rm "$id" >/dev/null; remove_pod "$pod"
    stop_containerd; stop_serving
  done
  direct=${requests[$SHAPED/test/app:1]} through=${requests[registry.test/test/app:1]}
  [ "$through" -le $((direct + 1)) ] || fail "containerd $version: $through requests through the mirror, $direct without"
done
