#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Spegel itself: what one node's containerd has is read lazily on another, through the Spegel there; when the peer is
# gone, or lacks a layer, the registry serves that.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/containerd.sh"
. "$(dirname "$0")/../lib/snapshots.sh"
. "$(dirname "$0")/../lib/lazy.sh"
. "$(dirname "$0")/../lib/hosts.sh"
. "$(dirname "$0")/../lib/peers.sh"
need_fuse; need_containerd 1; need_containerd 2; need_spegel
HAS=10.77.0.1 READS=10.77.0.2
own_network $HAS $READS
start_registry registry
lazy_image app gzip 17 24
publish app
start_shaper origin
ref=$SHAPED/test/app:1
mkdir -p "$T/m" "$T/truth" "$T/pull/$SHAPED"
truth app "$T/truth"
total=$($PY -c 'import sys; sys.path.insert(0, sys.argv[1]); from lazy import *
print(sum(layers_of(sys.argv[2]).values()))' "$LIB" "$T/images/app")

# One node has the image, as its containerd pulled it; the other has nothing.
printf 'server = "http://%s"\n' "$SHAPED" >"$T/pull/$SHAPED/hosts.toml"
start_containerd has 1
own_ctr -n k8s.io images pull --hosts-dir "$T/pull" "$ref" >"$T/pulled" 2>&1 || fail "the pull: $(tail -3 "$T/pulled")"
start_spegel $HAS $READS
PEER_PID=$SPEGEL_PID
start_containerd reads 2
start_spegel $READS $HAS
for address in $HAS $READS; do
  wait_for 60 "[ \$(http_status http://$address:5000/readyz) = 200 ]" || fail "Spegel at $address: $(tail -3 "$T/spegel-$address.log")"
done
blob=http://$READS:5000/v2/test/app/blobs/sha256:$(layer_of app 0)
wait_for 60 "[ \$(http_status '$blob?ns=$SHAPED' 'Range: bytes=5-9') = 206 ]" || fail "the nodes do not find each other: $(tail -3 "$T/spegel-$READS.log")"
same "a tag without its registry" 404 "$(http_status "http://$READS:5000/v2/test/app/manifests/1")"
same "a tag" 200 "$(http_status "http://$READS:5000/v2/test/app/manifests/1?ns=$SHAPED")"

# The file that Spegel writes for containerd.
configure_hosts '[index]' 'trust = "any"'
"$SPEGEL" configuration --containerd-registry-config-path "$HOSTS" --mirrored-registries "http://$SHAPED" \
  --mirror-targets "http://$READS:5000" 2>"$T/configuration.log" || fail "$(cat "$T/configuration.log")"
cat "$HOSTS/$SHAPED/hosts.toml"; echo

asked() { grep -cE "$2" "$1" || true; }
begin() {
  what=$1
  store "round-$((++round))"
  forget_requests
  before=$(wc -l <"$T/spegel-$READS.log")
  ifs mount -q "$ref" "$T/m" || fail "$what: no mount"
  same "$what: lazy" filling "$(states "$T/m")"
}
round=0
finish() {
  lazy readers "$T/truth" "$T/m" --readers 4 || fail "$what: wrong bytes"
  ifs umount "$T/m" >/dev/null
  ifs stop
  tail -n +$((before + 1)) "$T/spegel-$READS.log" >"$T/asked"
  from_registry=$(sent app) ranges=$(asked "$T/asked" '"status":206')
  echo "$what: $ranges ranges of Spegel, $from_registry of $total bytes of the registry"
}

begin "a peer that has everything"
finish
same "$what: bytes of the registry" 0 "$from_registry"
[ "$ranges" -gt 10 ] || fail "$what: it is not read in ranges"

use_containerd has
own_ctr -n k8s.io content rm "sha256:$(layer_of app 1)" >/dev/null
begin "a peer that lost a layer"
finish
same "$what: of the layer that it has" 0 "$(asked "$SHAPER/requests" "blobs/sha256:$(layer_of app 0)")"
[ "$from_registry" -gt 0 ] && [ "$ranges" -gt 0 ] || fail "$what: both are needed"

begin "a peer that dies"
head -c 100000 "$(find "$T/m" -type f -size +1M | head -1)" >/dev/null
[ "$(sent app)" -lt $((total / 10)) ] || fail "$what: the registry sent $(sent app)"
slay "$PEER_PID"
finish
[ "$from_registry" -gt $((total / 2)) ] || fail "$what: the registry sent $from_registry"
