#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# long
# Layers of one large zstd frame, as skopeo and zstd write them: with an index they are mounted at once and read while
# they come, each byte is fetched once, also by the next daemon after kill -9, and in the end they are proven.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_root; need_fuse
start_registry registry
start_shaper line
lazy system "$T/images/gzip" 60
push "$T/images/gzip" test/gzip:1
truth gzip "$T/truth"
# By the library that BuildKit, podman and skopeo use, and by the one of the format's authors.
skopeo --insecure-policy copy -q --dest-tls-verify=false --dest-compress --dest-compress-format zstd --dest-compress-level 3 \
  "oci:$T/images/gzip:latest" "docker://$REGISTRY/test/go:1" 2>"$T/skopeo.log"
skopeo --insecure-policy copy -q --src-tls-verify=false "docker://$REGISTRY/test/go:1" "oci:$T/images/go:latest" 2>>"$T/skopeo.log"
$PY - "$LIB" "$T/images/gzip" "$T/images/checked" <<'EOF2'
import subprocess, sys
sys.path.insert(0, sys.argv[1])
from oci import *
from lazy import layers_of
layers = []
for digest in layers_of(sys.argv[2]):
    tar = gzip.decompress(open(f"{sys.argv[2]}/blobs/sha256/{digest[7:]}", "rb").read())
    zstd = subprocess.run(["zstd", "-q", "-c", "-12", "--check"], input=tar, stdout=subprocess.PIPE, check=True).stdout
    layers.append(Layer(tar, LAYER_ZSTD, zstd))
layout = Layout(sys.argv[3])
layout.tag(layout.image(layers))
EOF2
push "$T/images/checked" test/checked:1
in_flight() { state "$1" | field 'sum(len(l["in_flight"]) + l["waiting"] for l in j["layers"])'; }
missing() { state "$1" | field 'sum(l["blob_bytes"] - l["blob_bytes_present"] for l in j["layers"])'; }
whole() { find "$T/images/$1/blobs" -size +1000k -printf '%s\n'; }
(cd "$T/truth" && find usr -type f -size +4k | sort) >"$T/files"
first=$(head -1 "$T/files")
for name in go checked; do
  publish $name
  # All of what is one layer is one frame.
  head -c 4 "$(find "$T/images/$name/blobs" -size +1000k)" | cmp - <(printf '\x28\xb5\x2f\xfd') || fail "$name: no zstd"
  for mode in $(modes); do
    m=$M/$name-$mode
    store "$name-$mode"; mkdir -p "$m"
    forget_requests
    shape set rate=1MB >/dev/null
    ifs mount -q --mode "$mode" "$SHAPED/test/$name:1" "$m" >/dev/null
    find "$m" -printf '%p %s %m\n' >/dev/null
    same "$name, $mode: bytes of the layer for the mount" 0 "$(sent $name)"
    # Its beginning is read while its end is at the registry.
    cmp "$T/truth/$first" "$m/$first" || fail "$name, $mode: $first"
    same "$name, $mode: state" filling "$(states "$m")"
    [ "$(missing "$m")" -gt $(($(whole $name) / 2)) ] || fail "$name, $mode: it waited for most of the layer"
    # The rest comes by itself once a part was read. The next daemon goes on after a kill.
    readers=()
    for round in 1 2; do
      before=$(missing "$m")
      [ "$before" -gt 0 ] || fail "$name, $mode: all of it came too early"
      cat "$m/$(tail -1 "$T/files")" >"$T/last-$round" & readers+=($!)
      wait_for 20 '[ "$(missing "$m")" -lt "$before" ]' || fail "$name, $mode: nothing comes"
      slay $(daemons_of "$RUN")
      ifs images >/dev/null
      cmp "$T/truth/$first" "$m/$first" || fail "$name, $mode: $first after kill $round"
    done
    shape set rate=0 >/dev/null
    wait "${readers[@]}" || fail "$name, $mode: who waited when the daemon was killed"
    for round in 1 2; do cmp "$T/last-$round" "$T/truth/$(tail -1 "$T/files")"; done
    lazy readers "$T/truth" "$m" --readers 6 --seed "$mode" >/dev/null || fail "$name, $mode: wrong bytes"
    wait_for 30 '[ "$(states "$m")" = complete ]' || fail "$name, $mode: $(state "$m")"
    same "$name, $mode: source" proven "$(ifs inspect --json "$SHAPED/test/$name:1" | field 'j["layers"][0]["source"]')"
    # What was in flight when a daemon was killed comes again: eight requests of 4 MiB at most, twice.
    [ "$(sent $name)" -le $(($(whole $name) + (64 << 20))) ] || fail "$name, $mode: $(sent $name) bytes of $(whole $name)"
    # Given back and read again: from its beginning.
    ifs evict --all >/dev/null 2>&1 || true
    lazy readers "$T/truth" "$m" --readers 3 --seed "$mode" >/dev/null || fail "$name, $mode: wrong bytes after eviction"
    same "$name, $mode: reads that failed" 0 "$(counter fill_reads_failed)"
    ifs umount --all
    ifs stop
  done
done
