#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Dragonfly's client itself, as the mirror of a node: images are lazy through it, what one store has read costs the
# registry nothing when the next reads it, and when it is gone the registry serves. It runs alone: the scheduler, which
# would name other nodes, is another program.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/containerd.sh"
. "$(dirname "$0")/../lib/lazy.sh"
. "$(dirname "$0")/../lib/hosts.sh"
. "$(dirname "$0")/../lib/peers.sh"
need_root; need_fuse; need_dfdaemon
start_registry registry
lazy_image app gzip 19 24
publish app
start_shaper origin
ref=registry.test/test/app:1
mkdir -p "$T/m" "$T/truth"
truth app "$T/truth"
total=$($PY -c 'import sys; sys.path.insert(0, sys.argv[1]); from lazy import *
print(sum(layers_of(sys.argv[2]).values()))' "$LIB" "$T/images/app")
start_dfdaemon
configure_hosts '[index]' 'trust = "any"'
host_file registry.test <<<"server = \"http://$SHAPED\"
[host.\"http://$DFPROXY\"]
  capabilities = [\"pull\", \"resolve\"]
[host.\"http://$DFPROXY\".header]
  X-Dragonfly-Registry = \"http://$SHAPED\""
begin() {
  what=$1
  store "round-$((++round))"
  forget_requests
  ifs mount -q "$ref" "$T/m" || fail "$what: no mount"
  same "$what: lazy" filling "$(states "$T/m")"
}
round=0
finish() {
  lazy readers "$T/truth" "$T/m" --readers 4 || fail "$what: wrong bytes"
  ifs status --json >"$T/status"
  ifs umount "$T/m" >/dev/null
  ifs stop
  from_registry=$(sent app)
  echo "$what: the registry sent $from_registry of $total bytes"
}
same "a range" 206 "$(http_status "http://$DFPROXY/v2/test/app/blobs/sha256:$(layer_of app 0)?ns=registry.test" \
  'Range: bytes=5-9' "X-Dragonfly-Registry: http://$SHAPED")"
same "what the registry does not have" 404 "$(http_status "http://$DFPROXY/v2/test/app/manifests/none?ns=registry.test" \
  "X-Dragonfly-Registry: http://$SHAPED")"

begin "the first store"
finish
same "$what: troubles" '[]' "$(field 'j["endpoints"]' <"$T/status")"
# The client reads pieces of 4 MiB, each once.
[ "$from_registry" -le "$total" ] || fail "$what: the registry sent $from_registry of $total bytes"
begin "the second store"
finish
same "$what: bytes of the registry" 0 "$from_registry"
same "$what: troubles" '[]' "$(field 'j["endpoints"]' <"$T/status")"

begin "the client dies"
head -c 100000 "$(find "$T/m" -type f -size +1M | head -1)" >/dev/null
slay "$DFDAEMON_PID"
finish
[ "$from_registry" -gt $((total / 2)) ] || fail "$what: the registry sent $from_registry"
