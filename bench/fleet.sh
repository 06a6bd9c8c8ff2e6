#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What a fleet costs its registry (docs/benchmarks.md): fleet.sh [NODES [FIRST [WAVE]]], as root. Nodes behind one caching
# mirror, each with a store, a daemon and a network of its own, WAVE of them at a time. First with an index that was
# published before; then an image without one, which FIRST nodes start at the same instant, beside another writer of the
# list of referrers.
FLEET_ARGS=${FLEET_ARGS:-$*}
export FLEET_ARGS
. "$(dirname "$0")/../tests/lib/lib.sh"
. "$LIB/lazy.sh"
. "$LIB/hosts.sh"
. "$LIB/hostile.sh"
. "$LIB/fleet.sh"
need_root; need_fuse; need nsenter
own_network
read -r nodes first wave <<<"$FLEET_ARGS 50 10 10"
start_registry registry
for name in ready new; do lazy_image $name gzip "${#name}" 96; done
publish ready
start_shaper origin
start_fleet "$nodes"
# What a program needs: some of the files, by the same names on each node.
reads() { (cd "$T/node$1" && find . -type f | LC_ALL=C sort >"$T/files$1" && head -n $(($(wc -l <"$T/files$1") / 8)) "$T/files$1" |
  xargs -d '\n' cat | wc -c); }
# visits K: what a node does; its state is noted before it reads.
visits() { node_mounts "$1" $ref && node_state "$1" >"$T/state$1" && reads "$1" >/dev/null; }
waves() {  # waves FROM TO
  local from k size
  for from in $(seq "$1" "$wave" "$2"); do
    size=$((from + wave - 1 > $2 ? $2 - from + 1 : wave))
    one() { visits $((from + $1 - 1)); }
    storm "$size" one
    for k in $(seq "$from" $((from + size - 1))); do node_stops "$k"; done
  done
}
lazy_ones() { cat "$T"/state* | grep -c filling || true; }
ref=registry.test/test/ready:1
forget_requests
node_mounts 1 $ref; needed=$(reads 1); node_stops 1
alone=$(registry_sent)
waves 2 "$nodes"
echo "published before: $nodes nodes, $needed bytes read by each; the registry sent $alone to the first, $(registry_sent) in all"
echo "lazy: $(lazy_ones) of $((nodes - 1)) others"

rm -rf "$T"/store-node*
rm -f "$T"/state*
ref=registry.test/test/new:1
subject=$(manifest_of new)
image=$(cat "$T/images/new"/blobs/sha256/* | wc -c)
forget_requests
begins() { node_mounts "$1" $ref; }
storm "$first" begins &
storm=$!
foreign=()
for k in $(seq 20); do foreign+=("$(foreign_entry test/new "$subject" "$k")"); sleep 0.7; done
wait $storm
for k in $(seq "$first"); do
  wait_for 120 "node_says $k 'index[.](published|already_published|publish_failed)'" || echo "node $k never decides"
  ! node_says $k 'index[.]publish_failed' || echo "node $k: $(grep -h index.publish_failed "$T/store-node$k/run/daemon.log")"
done
there=$(listed test/new "$subject" 'm["digest"]')
kept=0
for k in "${foreign[@]}"; do ! grep -q "$k" <<<"$there" || kept=$((kept + 1)); done
echo "not published: $first first nodes at once, image of $image bytes; the registry sent $(registry_sent); $(index_pushes) published; $kept of ${#foreign[@]} foreign entries stayed"
for k in $(seq "$first"); do node_stops "$k"; done
forget_requests
waves $((first + 1)) "$nodes"
echo "the $((nodes - first)) others: the registry sent $(registry_sent); lazy: $(lazy_ones)"
