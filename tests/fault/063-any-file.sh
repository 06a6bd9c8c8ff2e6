#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Every file of a store in turn is deleted, emptied, cut and written over while the daemon is away. The daemon
# starts and shows the image, by itself and by the kernel, and not a byte of it is wrong.
. "$(dirname "$0")/../lib/lib.sh"
. "$LIB/lazy.sh"
need_root; need_fuse
DAMAGE=$LIB/damage.py
start_registry registry
lazy_image app gzip 5 0.2
publish app
truth app "$T/truth"
ref=$REGISTRY/test/app:1
all=$(modes)
for mode in $all; do mkdir -p "$M/$mode"; done

# Stores that a daemon left which was killed.
left() { slay $(daemons_of "$RUN"); for mount in $(mounts_below "$M") $(mounts_below "$RUN"); do umount -l "$mount"; done; mv "$ROOT" "$T/$1"; }
store whole
ifs pull -q "$ref"
wait_for 30 '[ "$(find "$ROOT/layers" -name access | wc -l)" = 2 ]' || fail "no span tables"
for mode in $all; do ifs mount -q --mode "$mode" "$ref" "$M/$mode" >/dev/null; done
left whole
store part
for mode in $all; do ifs mount -q --mode "$mode" "$ref" "$M/$mode" >/dev/null; done
cat "$M/fuse/usr/lib/random" >/dev/null
left part

damage() {  # HOW FILE
  case $1 in
    gone) rm "$2" ;;
    empty) truncate -s 0 "$2" ;;
    cut) truncate -s $(($(stat -c %s "$2") / 2)) "$2" ;;
    noise) $PY "$DAMAGE" noise "$2" 0 "$(stat -c %s "$2")" 7 ;;
  esac
}
cases=0
try() {  # TEMPLATE FILE HOW
  store case
  rm -rf "$ROOT" "$RUN"
  cp -a --reflink=auto "$T/$1" "$ROOT"
  damage "$3" "$ROOT/$2"
  ifs ls >/dev/null || fail "$*: the daemon does not start"
  for mode in $all; do
    # The daemon mounts again what was not unmounted, maybe just now; of some cases the record is what is damaged.
    mountpoint -q "$M/$mode" || ifs mount -q --mode "$mode" "$ref" "$M/$mode" >/dev/null ||
      mountpoint -q "$M/$mode" || fail "$*, $mode: no mount"
    $PY "$DAMAGE" read "$T/truth" "$M/$mode" >"$T/read" || fail "$*, $mode: $(cat "$T/read")"
  done
  pid=$(cat "$ROOT/lock")
  ifs stop --unmount
  wait_for 20 '! readlink "/proc/$pid/exe" >/dev/null 2>&1' || fail "$*: still running"
  cases=$((cases + 1))
}
for template in whole part; do
  (cd "$T/$template" && find . -type f -size +0 | sort) >"$T/files"
  short=empty
  while read -r file <&3; do
    # What of a store that fills is like that of one that is whole was had.
    [ $template = whole ] || [[ $file == ./layers/* ]] || continue
    for how in gone $short noise; do try $template "$file" $how; done
    [ $short = empty ] && short='cut' || short=empty
  done 3<"$T/files"
done
echo "$cases cases"
