#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# A fleet pays once: nodes with networks of their own behind one registry and one caching mirror. Four start an image at
# the same instant when nobody has published its index; the index is published, a signature in the same list stays, and
# four more start lazily. The registry's bytes grow with images, not with nodes.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
. "$(dirname "$0")/../lib/hosts.sh"
. "$(dirname "$0")/../lib/hostile.sh"
. "$(dirname "$0")/../lib/fleet.sh"
need_root; need_fuse; need nsenter
own_network
start_registry registry
lazy_image app gzip 3 24
start_shaper origin
mkdir -p "$T/truth"
truth app "$T/truth"
start_fleet 8 'publish_spread = "3s"'
ref=registry.test/test/app:1
subject=$(manifest_of app)
image=$(cat "$T/images/app"/blobs/sha256/* | wc -c)
foreign=$(foreign_entry test/app "$subject" signature)
right() { lazy readers "$T/truth" "$T/node$1" --readers 4 || fail "node $1: wrong bytes"; }

# Nobody has published an index: each makes a pass of its own, through the mirror.
forget_requests
first() { node_mounts "$1" "$ref"; }
storm 4 first
for k in 1 2 3 4; do
  wait_for 60 "node_says $k 'index[.](published|already_published|publish_failed)'" || fail "node $k never decides"
  ! node_says $k 'index[.]publish_failed' || fail "node $k: $(grep index.publish_failed "$T/store-node$k/run/daemon.log")"
done
pushes=$(index_pushes)
[ "$pushes" -ge 1 ] && [ "$pushes" -le 4 ] || fail "$pushes indexes were pushed"
sent=$(registry_sent)
echo "4 first nodes: the registry sent $sent, the image has $image; $pushes of them published"
[ "$sent" -le $((image * 11 / 10)) ] || fail "4 first nodes: the registry sent $sent of $image"
same "the signature" 1 "$(listed test/app "$subject" 'm["digest"]' | grep -c "$foreign")"
published=$(listed test/app "$subject" 'm["digest"]' | field "len(j)")
[ "$published" -ge 2 ] && [ "$published" -le 5 ] || fail "$published entries in the list"
for k in 1 2 3 4; do right $k; node_stops $k; done

# The others: lazy, and next to nothing from the registry, whose cache has the bytes.
forget_requests
for k in 5 6 7 8; do
  node_mounts $k "$ref" || fail "node $k does not mount"
  same "node $k" filling "$(node_state $k)"
  right $k
  node_stops $k
done
sent=$(registry_sent)
echo "4 further nodes: the registry sent $sent"
[ "$sent" -le $((image / 10)) ] || fail "4 further nodes: the registry sent $sent"
same "indexes pushed in the end" "$pushes" "$(($(index_pushes) + pushes))"
