#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# `imagefs rpull` gives containerd an image without its layers: no layer is fetched by containerd, `ctr run` works, the
# image outlives containerd's collector, and what belongs to it goes with it. With either version of containerd.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/containerd.sh"
. "$(dirname "$0")/../lib/snapshots.sh"
need_containerd 1; need_containerd 2
start_registry registry
layered_image app
ref=$REGISTRY/test/app:1
rpull() { ifs rpull --address "$CONTAINERD/sock" "$@"; }
blobs() { own_ctr content ls -q | sort; }
serve
refuse 7 'no containerd answers at .*--address' ifs rpull --address "$T/none/sock" "$ref"
refuse 1 'not an image in a registry' ifs rpull "oci:$T/images/app"
refuse 2 'plain-http' ifs rpull --plain-http "$ref"
stop_serving
for version in 1 2; do
  ROOT=$T/root$version RUN=$T/run$version
  start_containerd "plain$version" $version
  refuse 7 daemon rpull "$ref"                          # none runs, and none is started
  serve
  refuse 1 'has no snapshotter imagefs.*proxy_plugins' rpull -q "$ref"
  same "leases" "" "$(own_ctr leases ls -q)"
  stop_containerd

  start_containerd "containerd$version" $version imagefs
  refuse 4 'not exist' rpull "$REGISTRY/test/none:1"
  rpull --json "$ref" >"$T/pulled" 2>"$T/progress"
  $PY "$LIB/json_schema.py" check rpull "$T/pulled" || fail "the output is not as documented"
  same "progress" 5 "$(grep -c '^layer ' "$T/progress")"
  same "result" "[\"$ref\", 5]" "$(field '[j["reference"], len(j["layers"])]' <"$T/pulled")"
  same "leases" "" "$(own_ctr leases ls -q)"
  same "unpacked layers" 0 "$(counter snapshot_layers_unpacked)"
  same "blobs" 2 "$(blobs | grep -c sha256)"
  run() { timeout 60 "$CONTAINERD/bin/ctr" -a "$CONTAINERD/sock" run --rm --snapshotter imagefs "$@"; }
  same "runs" three "$(PATH=$CONTAINERD/bin:$PATH run "$ref" "one$version" cat /etc/motd)"
  # Again, with the record and the content there; and in a second namespace.
  rpull -q "$ref" >/dev/null
  rpull -q --namespace other "$ref" >/dev/null
  same "in the other namespace" "$ref" "$(own_ctr -n other images ls -q)"
  # A collection takes nothing of it: the removal of another image, waited for, makes one.
  own_ctr images tag "$ref" none.invalid/other:1 >/dev/null
  own_ctr images rm --sync none.invalid/other:1 >/dev/null
  same "blobs after a collection" 2 "$(blobs | grep -c sha256)"
  same "runs after it" three "$(PATH=$CONTAINERD/bin:$PATH run "$ref" "two$version" cat /etc/motd)"

  own_ctr images rm --sync "$ref" >/dev/null
  own_ctr -n other images rm --sync "$ref" >/dev/null
  wait_for 30 '[ "$(counter snapshots)" = 0 ]' || fail "snapshots stay: $(snapshots default)"
  same "blobs after removal" "" "$(blobs)"
  stop_containerd
  stop_serving
done
