#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What stands between a fleet and its registry: docker-registry as a pull-through cache, and nginx that caches slices.
# Both serve ranges; an image is lazy through them, and a second node costs the registry nothing.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
. "$(dirname "$0")/../lib/hosts.sh"
need_root; need_fuse
start_registry registry
lazy_image app gzip 3 24
publish app
start_shaper origin
configure_hosts '[index]' 'trust = "any"'
ref=registry.test/test/app:1
mkdir -p "$T/m" "$T/truth"
truth app "$T/truth"
right() { lazy readers "$T/truth" "$T/m" --readers 4 || fail "$1: wrong bytes"; }
total=$(cat "$T/images/app"/blobs/sha256/* | wc -c)

mkdir -p "$T/cache/data"
cat >"$T/cache/config.yml" <<YML
version: 0.1
log: {level: info, accesslog: {disabled: false}}
storage: {filesystem: {rootdirectory: $T/cache/data}}
http: {addr: 127.0.0.1:0}
proxy: {remoteurl: "http://$SHAPED"}
YML
docker-registry serve "$T/cache/config.yml" >"$T/cache.log" 2>&1 &
TEST_PIDS+=($!)
wait_for 20 "grep -q 'listening on' '$T/cache.log'" || fail "the cache does not start"
CACHE=$(grep -o 'listening on 127.0.0.1:[0-9]*' "$T/cache.log" | head -1 | cut -d' ' -f3)
start_nginx slices "listen 127.0.0.1:PORT;
  location /v2/ {
    slice 1m; proxy_cache slices; proxy_cache_lock on; proxy_cache_key \$uri\$slice_range; proxy_cache_valid 200 206 1h;
    proxy_set_header Range \$slice_range; proxy_http_version 1.1; proxy_pass http://$SHAPED;
  }
  location ~ /(manifests|referrers)/ { proxy_pass http://$SHAPED; }" "proxy_cache_path $T/slices/cache keys_zone=slices:1m;"

for mirror in "$CACHE" "$NGINX"; do
  host_file registry.test <<<"server = \"http://127.0.0.1:$(free_port)\"
[host.\"http://$mirror\"]"
  for node in 1 2; do
    what="$mirror, node $node"
    store "$mirror-$node"
    forget_requests
    ifs mount -q "$ref" "$T/m" || fail "$what: no mount"
    same "$what: lazy" filling "$(states "$T/m")"
    right "$what"
    sent=$(sent app)
    if [ $node = 2 ]; then same "$what: bytes of the registry" 0 "$sent"
    # docker-registry reads the whole blob again for each request that comes before it has cached it.
    elif [ "$mirror" = "$NGINX" ]; then [ "$sent" -le $((total * 11 / 10)) ] || fail "$what: the registry sent $sent of $total"; fi
    ifs umount "$T/m" >/dev/null; ifs stop
  done
done
