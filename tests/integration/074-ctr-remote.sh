#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# stargz's puller for containerd 1.6, with the labels of its own snapshotter and with containerd's: both are understood.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/containerd.sh"
. "$(dirname "$0")/../lib/snapshots.sh"
need_containerd 1
peers=$SOURCE/build/peers/lazy
"$SOURCE/scripts/unpack.sh" sid "$peers" soci-snapshotter stargz-snapshotter >"$T/unpack.out" 2>&1 ||
  { tail -3 "$T/unpack.out"; rm -rf "$peers"; skip "ctr-remote could not be had from the Debian mirror"; }
start_registry registry
start_proxy line
layered_image app
ref=$PROXY/test/app:1
serve
start_containerd one 1 imagefs
n=0
for labels in "" --use-containerd-labels; do
  n=$((n + 1))
  "$peers/run" /usr/bin/ctr-remote -a "$CONTAINERD/sock" -n "ns$n" images rpull --plain-http --snapshotter imagefs $labels "$ref" \
    >"$T/pull.out" 2>&1 || { cat "$T/pull.out"; fail "rpull $labels"; }
  same "lazy $labels" $((5 * n)) "$(counter snapshot_layers_lazy)"
  same "unpacked $labels" 0 "$(counter snapshot_layers_unpacked)"
  same "container $labels" "three 300" "$(own_ctr -n "ns$n" run --rm --snapshotter imagefs "$ref" one sh -c 'cat /etc/motd; find /data -type f | wc -l' | xargs)"
done
requests layers "$T/images/app"
