#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# long
# Files of the store that somebody turned bits of, zeroed, exchanged or wrote over: of layers that are
# whole and of such as fill, with the daemon away, before and after a mount. Not one wrong byte or attribute
# is served, and since the registry is there, nothing fails either.
. "$(dirname "$0")/../lib/lib.sh"
. "$LIB/lazy.sh"
need_root; need_fuse
DAMAGE=$LIB/damage.py
start_registry registry
lazy_image app gzip 5 6
publish app
truth app "$T/truth"
ref=$REGISTRY/test/app:1
stopped() { ifs stop; wait_for 20 '[ -z "$(daemons_of "$RUN")" ]' || fail "still running"; }
mkdir -p "$M/a"
store whole
ifs pull -q "$ref"
wait_for 30 '[ "$(find "$ROOT/layers" -name access | wc -l)" = 2 ]' || fail "no span tables"
stopped
mv "$ROOT" "$T/whole"
store part
ifs mount -q --mode fuse "$ref" "$M/a" >/dev/null
cat "$M/a/usr/lib/random" "$M/a/usr/share/doc/1/45" >/dev/null
ifs umount "$M/a"; stopped; mv "$ROOT" "$T/part"
store full   # all is here, but not yet proven
ifs mount -q --mode fuse "$ref" "$M/a" >/dev/null
find "$M/a" -type f -exec cat {} + >/dev/null
cp -a "$ROOT" "$T/full"
ifs umount "$M/a"; stopped

# Each case has a copy of a store; $L is its largest layer.
fresh() {
  store case
  rm -rf "$ROOT" "$RUN"
  cp -a "$T/$1" "$ROOT"
  L=$(dirname "$(ls -S "$ROOT"/layers/*/data | head -1)")
  chain=$(ls -S "$ROOT"/chains/* | head -1)
}
shows_right() {  # WHAT
  ifs ls >/dev/null   # which may have a mount to bring back
  mountpoint -q "$M/a" || ifs mount -q --mode "$mode" "$ref" "$M/a" >/dev/null ||
    mountpoint -q "$M/a" || fail "$mode, $1: no mount"
  $PY "$DAMAGE" read "$T/truth" "$M/a" >"$T/read" || fail "$mode, $1: $(cat "$T/read")"
  ifs umount "$M/a"
  stopped
}
cases=0
with() {  # BASE DAMAGE...: the words of a shell command
  fresh "$1"; shift
  eval "$*"
  shows_right "$*"
  cases=$((cases + 1))
}
d() { $PY "$DAMAGE" "$@"; }
for mode in $(modes); do
  with whole 'd flip $L/data 200 1'
  with whole 'd flip $L/data 1 2'
  with whole 'd zero $L/data 409600 819200'
  with whole 'd noise $L/data 512 100000 3'
  with whole 'd keep-times flip $L/data 50 4'
  with whole 'd keep-times zero $L/data 0 4096; rm $L/access'
  with whole 'truncate -s -4096 $L/data; truncate -s +4096 $L/data'
  with whole 'd flip $L/index 5 5'
  with whole 'd keep-times flip $L/index 1 6'
  with whole 'd zero $L/index 4096 4096'
  with whole 'd flip $chain 1 7'
  with whole 'd flip $chain 20 8'
  with whole 'd keep-times flip $chain 3 9'
  with whole 'd zero $chain 1024 512'
  with whole 'd flip $L/access 20 10; d flip $L/data 20 11'
  with whole 'cp $L/data $L/other; d flip $L/other 9 12; mv $L/other $L/data'
  with part 'd flip $L/data 2000 13'
  with part 'd keep-times zero $L/data 0 4000000'
  with part 'd noise $L/present 0 $(stat -c %s $L/present) 14'
  with part 'printf "\1%.0s" $(seq 400) >$L/present'
  with part 'd flip $L/present 9 15'
  with part 'd zero $L/present 8 64'
  with part 'rm $L/present'
  with part 'cp $T/full/layers/$(basename $L)/present $L/present'
  with part 'd flip $L/access 20 16'
  with part 'd flip $L/access 1 17'
  with part 'd noise $L/access $(($(stat -c %s $L/access) - 3000)) 3000 18'
  with part 'truncate -s 0 $L/access'
  with part 'd flip $L/index 20 19'
  with part 'd keep-times zero $L/index 2048 2048'
  with full 'd flip $L/data 7 20'
  with full 'd zero $L/blob 0 65536; d keep-times flip $L/data 1 21'
done

# While it is shown: the daemon is told of the write, and what is wrong comes again, into the same file.
for mode in $(modes); do
  for base in whole bare part; do
    fresh ${base/bare/whole}
    [ $base != bare ] || rm "$ROOT"/layers/*/access   # as after a stop right behind a pull
    ifs mount -q --mode "$mode" "$ref" "$M/a" >/dev/null
    [ $base != part ] || { ifs pull -q --wait "$M/a" >/dev/null; wait_for 20 '[ "$(states "$M/a")" = complete ]' || fail "never complete"; }
    L=$(dirname "$(ls -S "$ROOT"/layers/*/data | head -1)")
    d flip "$L/data" 200 22
    # The kernel reads the file by itself: it is right again when the daemon says that it is.
    wait_for 30 "log_says 'layer.damaged' && { [ $base != bare ] || log_says layer.healed; } && ifs status --json | field 'all(l[\"state\"] == \"complete\" for l in j[\"layers\"])' | grep -q true" ||
      fail "$mode, $base: written to while it is shown: not repaired"
    echo 3 >/proc/sys/vm/drop_caches
    $PY "$DAMAGE" read "$T/truth" "$M/a" >"$T/read" || fail "$mode, $base, mounted: $(cat "$T/read")"
    ifs umount "$M/a"
    stopped
    cases=$((cases + 1))
  done
done

# A file that is laid out by a table of contents is compared with what it was, and repaired in the same way.
lazy_image toc estargz 7 2
truth toc "$T/truth-toc"
for mode in $(modes); do
  store "toc-$mode"
  ifs mount -q --mode "$mode" "$REGISTRY/test/toc:1" "$M/a" >/dev/null
  ifs pull -q --wait "$M/a" >/dev/null
  wait_for 20 '[ "$(states "$M/a")" = complete ]' || fail "$mode, toc: never complete"
  for data in "$ROOT"/layers/*/data; do d flip "$data" 50 23; d noise "$data" 512 4096 24; done
  wait_for 30 "log_says 'layer.damaged' && ifs status --json | field 'all(l[\"state\"] == \"complete\" for l in j[\"layers\"])' | grep -q true" ||
    fail "$mode, toc: not repaired"
  echo 3 >/proc/sys/vm/drop_caches
  $PY "$DAMAGE" read "$T/truth-toc" "$M/a" >"$T/read" || fail "$mode, toc, mounted: $(cat "$T/read")"
  ifs umount "$M/a"
  stopped
  cases=$((cases + 1))
done
echo "$cases cases"
