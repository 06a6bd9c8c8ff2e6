#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Images that the tools of others have made readable in parts: SOCI's, and eStargz and zstd:chunked by the
# converter of the stargz snapshotter. They are shown before their bytes are here, and are right.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
. "$(dirname "$0")/../lib/containerd.sh"
need_fuse; need_containerd 1
peers=$SOURCE/build/peers/lazy
timeout 300 "$SOURCE/scripts/unpack.sh" sid "$peers" soci-snapshotter stargz-snapshotter >"$T/unpack.out" 2>&1 ||
  { tail -3 "$T/unpack.out"; rm -rf "$peers"; skip "soci and ctr-remote could not be had from the Debian mirror"; }
start_registry registry
start_shaper line
lazy_image gzip gzip
start_containerd
own_ctr images pull --plain-http "$REGISTRY/test/gzip:1" >"$T/ctr.out" 2>&1 || { tail -3 "$T/ctr.out"; fail "containerd does not pull"; }
truth gzip "$T/truth"

remote() { "$peers/run" /usr/bin/ctr-remote -a "$T/containerd/sock" "$@" >"$T/ctr.out" 2>&1 || { tail -5 "$T/ctr.out"; fail "ctr-remote $*"; }; }
for kind in estargz zstdchunked; do
  remote images convert --oci --$kind "$REGISTRY/test/gzip:1" "$REGISTRY/test/$kind:1"
  remote images push --plain-http "$REGISTRY/test/$kind:1"
done
# SOCI's index lies beside an image of its own, so that the other tests' is what it was.
own_ctr images tag "$REGISTRY/test/gzip:1" "$REGISTRY/test/soci:1" >/dev/null
own_ctr images push --plain-http "$REGISTRY/test/soci:1" >"$T/ctr.out" 2>&1 || { tail -3 "$T/ctr.out"; fail "push"; }
# Its paths are fixed: it gets a /run and a /var/lib of its own.
make_soci() {
  timeout 60 unshare -m --propagation private bash -e -c '
    mount -t tmpfs none /run; mount -t tmpfs none /var/lib
    mkdir -p /run/containerd /var/lib/soci-snapshotter-grpc
    ln -s "$0/containerd/sock" /run/containerd/containerd.sock
    "$1/run" /usr/bin/soci --content-store containerd create --span-size 262144 --min-layer-size 0 "$2"
    "$1/run" /usr/bin/soci --content-store containerd push --plain-http "$2"' "$T" "$peers" "$1" >"$T/soci.out" 2>&1
}
# Nothing of containerd's refers to what soci makes until it is pushed: a collection that comes between takes it.
soci() { make_soci "$1" || make_soci "$1" || make_soci "$1" || { tail -5 "$T/soci.out"; fail "soci"; }; }
soci "$REGISTRY/test/soci:1"

declare -A origin=([estargz]=eStargz [zstdchunked]=zstd:chunked [soci]=SOCI)
for mode in $(modes); do
  for name in estargz zstdchunked soci; do
    skopeo --insecure-policy copy -q --src-tls-verify=false "docker://$REGISTRY/test/$name:1" "oci:$T/images/$name:latest" 2>"$T/skopeo.log"
    store "$mode-$name"
    mkdir -p "$M/$mode/$name"
    forget_requests
    ifs mount -q --mode "$mode" "$SHAPED/test/$name:1" "$M/$mode/$name" >/dev/null
    find "$M/$mode/$name" >/dev/null
    same "$name: spans that came" 0 "$(counter fill_spans)"
    same "$name: layers shown so" 2 "$(counter layers_lazy)"
    log_says "layer.lazy .*origin=${origin[$name]}" || fail "$name: $(grep layer.lazy "$RUN/daemon.log")"
    lazy readers "$T/truth" "$M/$mode/$name" --readers 4 --seed "$mode" || fail "$mode $name: wrong bytes"
    # The converter leaves files of its own in the tar (docs/adr/0011-what-a-layer-shows.md).
    [ $name = soci ] && right=$T/truth || right=$T/truth-$name
    [ -d "$right" ] || truth $name "$right"
    $PY "$LIB/tree.py" compare "$right" "$M/$mode/$name" --disarmed || fail "$mode $name: another tree"
    wait_for 20 '[ "$(states "$M/$mode/$name")" = complete ]' || fail "$mode $name: $(state "$M/$mode/$name")"
    ifs umount --all
    ifs stop
  done
done
