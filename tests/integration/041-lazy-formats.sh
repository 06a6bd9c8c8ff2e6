#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# long
# A layer with an index of any kind is shown before a byte of it is here, and is then what a pass over the
# whole gives, whoever reads first and in whatever order.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_root; need_fuse
start_registry registry
start_shaper line
declare -A origin=([gzip]=published [zstd]=published [zstd-one]=published [estargz]=eStargz [chunked]=zstd:chunked [skopeo]=zstd:chunked)
for name in gzip zstd zstd-one estargz chunked; do lazy_image $name $name; done
# zstd:chunked by a tool that others wrote.
skopeo --insecure-policy copy -q --dest-tls-verify=false --dest-compress --dest-compress-format zstd:chunked \
  "oci:$T/images/gzip:latest" "docker://$REGISTRY/test/skopeo:1" 2>"$T/skopeo.log"
skopeo --insecure-policy copy -q --src-tls-verify=false "docker://$REGISTRY/test/skopeo:1" "oci:$T/images/skopeo:latest" 2>>"$T/skopeo.log"
for name in gzip zstd zstd-one; do publish $name; done
truth gzip "$T/truth"
truth estargz "$T/truth-estargz"  # which has its table as one file more

for mode in $(modes); do
  for name in gzip zstd zstd-one estargz chunked skopeo; do
    store "$mode-$name"
    mkdir -p "$M/$mode/$name"
    forget_requests
    ifs mount -q --mode "$mode" "$SHAPED/test/$name:1" "$M/$mode/$name" >/dev/null
    # Names and attributes without the bytes. A table of contents is part of its layer.
    find "$M/$mode/$name" -printf '%p %s %m\n' | sort >"$T/list"
    grep -q "usr/share/doc/1 " "$T/list" || fail "$name: the tree"
    sent=$(sent $name)
    case ${origin[$name]} in
      published) same "$name: bytes of layers for the mount" 0 "$sent" ;;
      *) size=$(du -sb "$T/images/$name" | cut -f1)
        [ "$sent" -lt $((size / 4)) ] || fail "$name: $sent bytes of $size for the mount" ;;
    esac
    same "$name: spans that came" 0 "$(counter fill_spans)"
    same "$name: layers shown so" 2 "$(counter layers_lazy)"
    same "$name: refused" 0 "$(counter indexes_refused)"
    log_says "layer.lazy .*origin=${origin[$name]}" || fail "$name: $(grep layer.lazy "$RUN/daemon.log")"
    truth=$T/truth
    [ $name != estargz ] || truth=$T/truth-estargz
    lazy readers "$truth" "$M/$mode/$name" --readers 8 --seed "$mode" || fail "$mode $name: wrong bytes"
    $PY "$LIB/tree.py" compare "$truth" "$M/$mode/$name" --disarmed || fail "$mode $name: another tree"
    [ $name = estargz ] && more=131072 || more=0   # its end, where the table is
    lazy once "$SHAPER/requests" "$T/images/$name" $more >"$T/once" || { cat "$T/once"; fail "$mode $name: asked twice"; }
    # What was read is most of it, so that all of it comes, and is checked as a whole.
    wait_for 20 '[ "$(states "$M/$mode/$name")" = complete ]' || fail "$mode $name: $(state "$M/$mode/$name")"
    same "$name: reads that failed" 0 "$(counter fill_reads_failed)"
    ifs umount --all
    ifs stop
  done
done
