#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Layers of which a large part can only be had as a whole: one zstd frame, one deflate block, one chunk. It
# comes as several requests whose bytes interleave, each byte once, and reads right.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_root; need_fuse
start_registry registry
start_shaper line
for kind in "zstd 9" "zstd 20" "zstd 90" "gzip 20" "estargz 12"; do
  read -r form mib <<<"$kind"
  name=$form$mib
  lazy large "$T/images/$name" "$form" "$mib"
  push "$T/images/$name" "test/$name:1"
  [ "$form" = estargz ] || publish "$name"
  truth "$name" "$T/truth-$name"
  for mode in $(modes); do
    forget_requests
    shape set rate=400Mbit rtt=10 >/dev/null
    store "$name-$mode"
    mkdir -p "$M/$name-$mode"
    ifs mount -q --mode "$mode" "$SHAPED/test/$name:1" "$M/$name-$mode" >/dev/null
    same "$name, $mode: state" filling "$(states "$M/$name-$mode")"
    # The end first: what comes before it in the span is needed as well.
    tail -c 5000 "$M/$name-$mode/usr/lib/large" | cmp - <(tail -c 5000 "$T/truth-$name/usr/lib/large") ||
      fail "$name, $mode: the end reads wrong"
    for file in before large after; do
      cmp "$T/truth-$name/usr/lib/$file" "$M/$name-$mode/usr/lib/$file" || fail "$name, $mode: $file reads wrong"
    done
    grep -c '"range": "bytes=' "$SHAPER/requests" >"$T/ranges" || true
    [ "$(cat "$T/ranges")" -gt 1 ] || fail "$name, $mode: one request brought it all"
    timeout 60 "$IMAGEFS" --root "$ROOT" --run "$RUN" pull -q --wait "$M/$name-$mode" >/dev/null
    same "$name, $mode: state" complete "$(states "$M/$name-$mode")"
    lazy once "$SHAPER/requests" "$T/images/$name" $((128 << 10)) || fail "$name, $mode: bytes came twice"
    same "$name, $mode: reads that failed" 0 "$(counter fill_reads_failed)"
    ifs umount --all
    ifs stop
  done
  (store truth && ifs umount --all && ifs stop)
  rm -rf "$T/store-truth"
  rm -rf "$T/images/$name" "$T"/store-"$name"-*
done
