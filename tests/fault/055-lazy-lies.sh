#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Published indexes that lie. One of another blob is refused before it is used; one with wrong digests gives
# errors and no wrong byte; one with a wrong tree is found out when the layer is whole: its mounts fail, and
# the next mount takes a pass over the whole and shows what is right.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_root; need_fuse
start_registry registry
start_shaper line
ref=$SHAPED/test/app:1
lazy_image app gzip
subject=$(manifest_of app)
truth app "$T/truth"
same "the right mode" 4711 "$(stat -c %a "$T/truth/usr/bin/marked")"
for mode in $(modes); do
  # (c) the table of another layer, under this one's name
  publish app
  lazy lie "$REGISTRY/test/app" "$subject" other
  store "$mode-other"
  mkdir -p "$M/$mode"
  ifs mount -q --mode "$mode" "$ref" "$M/$mode" >/dev/null
  same "$mode: refused" 1 "$(counter indexes_refused)"
  same "$mode: layers shown early" 1 "$(counter layers_lazy)"
  log_says 'index.refused layer=[0-9a-f]* origin=published cause=.*describes blob' || fail "the log says: $(grep index "$RUN/daemon.log")"
  $PY "$LIB/tree.py" compare "$T/truth" "$M/$mode" || fail "$mode: another tree"
  ifs umount --all
  ifs stop

  # (a) digests that no bytes have
  publish app
  lazy lie "$REGISTRY/test/app" "$subject" digest
  store "$mode-digest"
  ifs mount -q --mode "$mode" "$ref" "$M/$mode" >/dev/null
  same "$mode: layers shown early" 2 "$(counter layers_lazy)"
  reads_fail "$M/$mode/usr/lib/random"
  reads_fail "$M/$mode/usr/share/doc/1/45"
  [ "$(counter fill_spans_wrong)" -ge 6 ] || fail "$mode: only $(counter fill_spans_wrong) tries"
  same "$mode: spans of that layer that are here" 0 "$(state "$M/$mode" | field 'j["layers"][0]["blob_bytes_present"]')"
  state "$M/$mode" | field 'j["layers"][0]["reason"]' | grep -qi digest || fail "reason: $(state "$M/$mode")"
  # The other layer is none of its business.
  cmp "$T/truth/usr/lib/upper3" "$M/$mode/usr/lib/upper3" || fail "$mode: a file of the other layer"
  ifs umount --all
  ifs stop

  # (b) a tree that is not the tar's
  publish app
  lazy lie "$REGISTRY/test/app" "$subject" mode
  store "$mode-tree"
  ifs mount -q --mode "$mode" "$ref" "$M/$mode" >/dev/null
  same "$mode: as the liar has it" 4755 "$(stat -c %a "$M/$mode/usr/bin/marked")"
  cmp "$T/truth/usr/bin/marked" "$M/$mode/usr/bin/marked" || fail "$mode: bytes"
  refuse 3 'does not match its tar' ifs pull -q --wait "$M/$mode"
  same "$mode: damaged" 1 "$(counter layers_failed)"
  log_says 'layer_damaged layer=' || fail "the log says nothing"
  same "$mode: state" damaged "$(state "$M/$mode" | field 'j["layers"][0]["state"]')"
  reads_fail "$M/$mode/usr/share/doc/1/60"
  # Whoever has it keeps it, and is told why; whoever comes next gets what is right.
  forget_requests
  mkdir -p "$M/$mode-next"
  ifs mount -q --mode "$mode" "$ref" "$M/$mode-next" >/dev/null
  same "$mode: the right mode" 4711 "$(stat -c %a "$M/$mode-next/usr/bin/marked")"
  same "$mode: state of the first" damaged "$(state "$M/$mode" | field 'j["layers"][0]["state"]')"
  ifs status "$M/$mode" | grep -q 'does not match its tar' || fail "$mode: status does not say why: $(ifs status "$M/$mode")"
  reads_fail "$M/$mode/usr/share/doc/1/60"
  ifs umount "$M/$mode"
  size=$(stat -c %s "$T/images/app/blobs/sha256/$(layer_of app 0)")
  [ "$(sent app)" -ge "$size" ] || fail "$mode: no pass over the whole: $(sent app)"
  $PY "$LIB/tree.py" compare "$T/truth" "$M/$mode-next" || fail "$mode: another tree"
  ifs umount --all
  ifs stop
done
