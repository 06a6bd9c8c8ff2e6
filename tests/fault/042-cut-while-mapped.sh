#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Files of the store that are cut while the daemon has them in memory: what they show fails until they are made
# or fetched again, everything else goes on in the same process.
. "$(dirname "$0")/../lib/lib.sh"
. "$LIB/lazy.sh"
need_root; need_fuse
start_registry registry
lazy_image app gzip 5 6; truth app "$T/truth"
publish app
image whiteouts
mkdir "$M/a" "$M/b" "$M/c"
ref=$REGISTRY/test/app:1

down() { ifs umount --all; ifs stop >/dev/null; wait_for 20 '[ -z "$(daemons_of "$RUN")" ]' || fail "still running"; }
# alive WHAT: the daemon is the same process, and its other mount is right.
alive() {
  same "$1: daemon" "$pid" "$(daemons_of "$RUN")"
  ls "$M/b" >/dev/null || fail "$1: the other mount"
  ifs ls >/dev/null || fail "$1: the command"
}

for what in chain layer-index; do
  store "$what"; configure '[fill]' 'background = false'
  ifs mount -q --mode fuse --eager "$ref" "$M/a" >/dev/null
  ifs mount -q --mode fuse "oci:$T/images/whiteouts" "$M/b" >/dev/null
  pid=$(daemons_of "$RUN")
  echo 3 >/proc/sys/vm/drop_caches
  case $what in
    chain) victim=$(ls -S "$ROOT"/chains/* | head -1) ;;
    layer-index) victim=$(ls -S "$ROOT"/layers/*/index | head -1) ;;
  esac
  truncate -s 4096 "$victim"
  # An error for the moment that it takes to make it again in the same file, never wrong bytes.
  wait_for 20 'log_says "chain.repaired|result=index_restored" && tar -C "$M/a" -cf /dev/null . 2>/dev/null' || fail "$what: not repaired"
  $PY "$LIB/tree.py" compare "$T/truth" "$M/a" --loose-root || fail "$what: wrong tree where it was mounted"
  alive "$what"
  # The same image anew, next to the mount that fails, in the same process.
  ifs mount -q --mode fuse --eager "$ref" "$M/c" >/dev/null || fail "$what: mount of the image again"
  $PY "$LIB/tree.py" compare "$T/truth" "$M/c" --loose-root || fail "$what: wrong tree"
  alive "$what"
  down
done

# What says where the bytes of a layer are, and the bytes themselves, while it fills.
for what in access data present; do
  store "$what"; configure '[fill]' 'background = false' 'deadline = "5s"'
  ifs mount -q --mode fuse "$ref" "$M/a" >/dev/null
  ifs mount -q --mode fuse "oci:$T/images/whiteouts" "$M/b" >/dev/null
  pid=$(daemons_of "$RUN")
  cmp "$T/truth/usr/lib/random" "$M/a/usr/lib/random" || fail "$what: before"
  echo 3 >/proc/sys/vm/drop_caches
  for victim in "$ROOT"/layers/*/$what; do truncate -s 4096 "$victim"; done
  # Right bytes or an error, never others.
  (cd "$T/truth" && find . -type f) | while read -r file; do
    status=0; cmp -s "$T/truth/$file" "$M/a/$file" || status=$?
    [ $status != 1 ] || fail "$what: wrong bytes of $file"
  done
  alive "$what"
  down
  ifs mount -q --mode fuse "$ref" "$M/a" >/dev/null
  ifs pull -q --wait "$M/a" >/dev/null
  # As it is shown once it is proven.
  ifs umount "$M/a"; ifs mount -q --mode fuse --eager "$ref" "$M/a" >/dev/null
  $PY "$LIB/tree.py" compare "$T/truth" "$M/a" --loose-root || fail "$what: wrong tree afterwards"
  down
done
