#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# alone
# Twenty mounts of one image at the same moment, and then twenty readers of each of them at the same moment,
# of the same and of different files: nothing of a layer is asked for twice, one question finds the index.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_root; need_fuse
start_registry registry
start_shaper line --rtt 4
lazy_image app gzip 1 12
publish app
truth app "$T/truth"
(cd "$T/truth" && find usr -type f -size +2k -size -90k | sort | sed -n 1,120p) >"$T/files"
mount_one() { mkdir -p "$M/$mode/$1" && ifs mount -q --mode "$mode" "$SHAPED/test/app:1" "$M/$mode/$1"; }
# Twenty processes for each mount; every one reads all of the files, in an order of its own.
read_one() {
  lazy readers "$T/part" "$M/$mode/$1" --readers 20 --seed "$mode $1"
}
mkdir -p "$T/part"
(cd "$T/truth" && xargs cp --parents -t "$T/part" <"$T/files")

for mode in $(modes); do
  store "$mode"
  forget_requests
  storm 20 mount_one
  same "bytes of layers for the mounts" 0 "$(sent app)"
  same "questions for the index" 1 "$(grep -c "sha256-[0-9a-f]*.imagefs" "$SHAPER/requests")"
  same "lookups" 1 "$(counter index_lookups)"
  same "indexes that were read" 2 "$(counter indexes_found)"
  same "daemons of this store" 1 "$(daemons_of "$RUN" | wc -w)"
  storm 20 read_one
  same "reads that failed" 0 "$(counter fill_reads_failed)"
  [ "$(counter fill_joins)" -gt 0 ] || fail "nobody joined: the storm was none"
  lazy once "$SHAPER/requests" "$T/images/app" || fail "$mode: asked twice"
  ifs pull -q --wait "$M/$mode/1" >/dev/null
  same "states" complete "$(states "$M/$mode/20")"
  lazy once "$SHAPER/requests" "$T/images/app" >/dev/null || fail "$mode: asked twice in the end"
  same "mounts" 20 "$(ifs ls --json | field 'len(j)')"
  ifs umount --all
  nothing_left "$M/$mode"
  ifs stop
done
