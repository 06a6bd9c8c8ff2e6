#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# long
# Other nodes as mirrors (Spegel, Dragonfly; here a stand-in, tests/fleet has the real ones): an image is lazy through a
# peer, and the registry is asked only for what the peer lacks, is too slow for or does not finish.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
. "$(dirname "$0")/../lib/hosts.sh"
need_root; need_fuse
start_registry registry
lazy_image app gzip 11 12
publish app
start_shaper origin
PEER_DIR=$T/peer
mkdir -p "$PEER_DIR" "$T/m" "$T/truth"
$PY "$LIB/peer_mirror.py" registry.test/test/app "$T/images/app" "$PEER_DIR" 2>"$T/peer.log" &
TEST_PIDS+=($!)
wait_for 20 "[ -e '$PEER_DIR/port' ]" || fail "the peer does not start"
PEER=127.0.0.1:$(cat "$PEER_DIR/port")
configure_hosts '[index]' 'trust = "any"'
host_file registry.test <<<"server = \"http://$SHAPED\"
[host.\"http://$PEER\"]
  capabilities = [\"pull\", \"resolve\"]"
ref=registry.test/test/app:1
truth app "$T/truth"
total=$($PY -c 'import sys; sys.path.insert(0, sys.argv[1]); from lazy import *
print(sum(layers_of(sys.argv[2]).values()))' "$LIB" "$T/images/app")
moods() { printf '%s' "$1" >"$PEER_DIR/moods.new" && mv "$PEER_DIR/moods.new" "$PEER_DIR/moods"; }
of_peer() { lazy bytes "$PEER_DIR/requests" "$T/images/app"; }
# asked FILE REGEX: requests with such a line.
asked() { grep -cE "$2" "$1" || true; }
# status_of PATH [RANGE]: what the peer answers.
status_of() { $PY -c 'import http.client, sys
c = http.client.HTTPConnection(sys.argv[1])
c.request("GET", sys.argv[2], headers={"Range": "bytes=" + sys.argv[3]} if sys.argv[3:] else {})
print(c.getresponse().status)' "$PEER" "$@"; }

# begin WHAT: a new store mounts the image; finish WHAT: every file is right.
begin() {
  what=$1
  store "round-$((++round))"
  forget_requests
  : >"$PEER_DIR/requests"
  moods '[]'
  ifs mount -q "$ref" "$T/m" || fail "$what: no mount"
  same "$what: lazy" filling "$(states "$T/m")"
}
round=0
finish() {
  lazy readers "$T/truth" "$T/m" --readers 4 || fail "$what: wrong bytes"
  ifs umount "$T/m" >/dev/null
  ifs stop
  from_registry=$(sent app) from_peer=$(of_peer)
  echo "$what: $from_peer bytes of $total from the peer, $from_registry from the registry"
}

# What such a mirror asks for.
blob=/v2/test/app/blobs/sha256:$(layer_of app 0)
same "no registry named" 404 "$(status_of "$blob")"
same "another registry" 404 "$(status_of "$blob?ns=other.test")"
same "a range" 206 "$(status_of "$blob?ns=registry.test" 5-9)"
same "beyond the end" 416 "$(status_of "$blob?ns=registry.test" 999999999-)"

begin "a peer that has everything"
[ "$(of_peer)" -lt $((total / 2)) ] || fail "$what: the mount took $(of_peer) of $total bytes"
finish
same "$what: bytes of the registry" 0 "$from_registry"
[ "$from_peer" -le $((total * 12 / 10)) ] || fail "$what: the peer sent $from_peer of $total"
same "$what: requests without the registry's name" 0 "$(grep -vc 'ns=registry\.test' "$PEER_DIR/requests" || true)"
# The small one may come by one request.
same "$what: whole layers" 0 "$(asked "$PEER_DIR/requests" "blobs/sha256:$(layer_of app 0).*\"range\": null")"
# The published index, which no runtime pulls, is all that is asked of the registry.
same "$what: the image of the registry" 0 "$(asked "$SHAPER/requests" "manifests/(1|$(manifest_of app))[?\"]")"

echo "sha256:$(layer_of app 1)" >"$PEER_DIR/lacks"
begin "a peer without one layer"
finish
same "$what: of the layer that it has" 0 "$(asked "$SHAPER/requests" "blobs/sha256:$(layer_of app 0)")"
[ "$from_registry" -gt 0 ] && [ "$from_peer" -gt 0 ] || fail "$what: both are needed"
[ "$from_registry" -lt "$from_peer" ] || fail "$what: the small layer is $from_registry bytes"
rm "$PEER_DIR/lacks"

begin "a slow peer"
moods '[{"path": "/blobs/", "delay": 0.5, "rate": 2000000}]'
finish
[ "$from_peer" -gt $((total / 2)) ] || fail "$what: given up"

begin "a silent peer"
moods '[{"path": "/blobs/", "delay": 300}]'
SECONDS=0
finish
[ $SECONDS -lt 200 ] || fail "$what: waited for"
[ "$from_registry" -gt 0 ] || fail "$what: the registry is not asked"

# Cut once in a range: the registry is asked for the rest of it.
begin "a peer that drops a range"
moods '[{"path": "/blobs/", "drop": 70000, "times": 1}]'
finish
[ "$from_registry" -gt 0 ] || fail "$what: the registry is not asked"
cat "$PEER_DIR/requests" "$SHAPER/requests" >"$T/both"
lazy once "$T/both" "$T/images/app" >"$T/out" || fail "$what: $(cat "$T/out")"

begin "a peer that drops every range"
moods '[{"path": "/blobs/", "drop": 70000}]'
finish
same "$what: kept" 0 "$([ "$from_peer" -gt 0 ]; echo $?)"
dropped=$(asked "$PEER_DIR/requests" '"sent": 70000')
[ "$dropped" -lt 20 ] || fail "$what: the peer was asked $dropped times"

# A mirror with another path is not sent `ns`: such a peer has nothing for it, and the registry serves all.
host_file registry.test </dev/null
registries_conf <<<"[[registry]]
prefix = \"registry.test/test\"
location = \"$REGISTRY/test\"
insecure = true
[[registry.mirror]]
location = \"$PEER/elsewhere\"
insecure = true"
begin "a mirror that is not told the registry"
finish
[ "$(asked "$PEER_DIR/requests" 'elsewhere/app/.*"status": 404')" -gt 0 ] || fail "$what: it is not asked"
same "$what: requests with a registry's name" 0 "$(asked "$PEER_DIR/requests" 'ns=')"
same "$what: bytes of the peer" 0 "$from_peer"
