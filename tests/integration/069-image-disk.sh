#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What the kubelet's image collection and eviction go by: ImageFsInfo names a directory that exists, on the file system
# of the store, and its sum is what the disk says. containerd 1.6 names a directory of its own, for which the package
# and the DaemonSet make a link; 2.x names the store.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/containerd.sh"
. "$(dirname "$0")/../lib/snapshots.sh"
. "$(dirname "$0")/../lib/lazy.sh"
configure '[fill]' 'background = false' '[containerd]' 'lazy = "repository"'
need_containerd 1; need_containerd 2
start_registry registry
start_shaper line
plain_host "$SHAPED"
layered_image app
layered_image other
publish app
lazy_image big gzip 5 8
publish big
# Disk space of the layers, as du counts it. A snapshot's usage is that of a layer's tar and index: each has two more
# small files and directories.
on_disk() { du -s --block-size=1 "$ROOT/layers" "$ROOT/snapshots" | awk '{sum += $1} END {print sum}'; }
used() { cri image-fs-info | field 'int(j["image_filesystems"][0]["used_bytes"]["value"])'; }
close() { $PY -c 'import sys; a, b = map(int, sys.argv[1:]); sys.exit(abs(a - b) > 14 * 32768 + b // 20)' "$1" "$2"; }
for version in 1 2; do
  store "node$version"
  serve --config "$T/config.toml"
  CONTAINERD=$T/containerd$version
  link=$CONTAINERD/root/io.containerd.snapshotter.v1.imagefs
  start_containerd "containerd$version" $version imagefs
  # As the units do it once containerd has started (systemd/containerd.service.d), with this containerd's folders.
  eval "$(sed -n 's/^ExecStartPost=-//p' "$SOURCE/systemd/containerd.service.d/imagefs.conf" |
    sed "s,/var/lib/imagefs,$ROOT,; s,/var/lib/containerd,$CONTAINERD/root,")"
  same "the link" "$ROOT" "$(readlink "$link")"
  directory=$(cri image-fs-info | field 'j["image_filesystems"][0]["fs_id"]["mountpoint"]')
  if [ $version = 1 ]; then same "directory of 1.6" "$link" "$directory"; else same "directory of 2.x" "$ROOT" "$directory"; fi
  [ -d "$directory/" ] || fail "$version: the kubelet is told $directory, which is no directory"
  same "$version: its file system" "$(stat -c %d "$ROOT")" "$(stat -Lc %d "$directory")"

  # One image that is whole, one that shares most of its layers, one of which little is local.
  for name in other app big; do cri pull "$SHAPED/test/$name:1" >"$T/pulled" || fail "$(cat "$T/pulled")"; done
  wait_for 40 'close "$(used)" "$(on_disk)"' || fail "$version: $(used) bytes, and on the disk $(on_disk)"
  before=$(used)
  [ "$before" -gt $((2 << 20)) ] || fail "$version: $before bytes, and one image is whole"
  ifs pull -q "$SHAPED/test/big:1" >/dev/null
  [ "$(on_disk)" -gt $((before + (7 << 20))) ] || fail "$version: $(on_disk) bytes after $before, and 8 MiB came"
  # containerd asks for the usage of a snapshot once; what comes later is in the free space, by which the kubelet acts.
  stop_containerd; resume_containerd
  wait_for 40 'close "$(used)" "$(on_disk)"' || fail "$version, complete: $(used) bytes, and on the disk $(on_disk)"
  echo "containerd $version: $before bytes, then $(used), and on the disk $(on_disk)"
  ifs rm "$SHAPED/test/big:1" >/dev/null || true
  for name in app other big; do cri rmi "$SHAPED/test/$name:1" >/dev/null; done
  wait_for 40 '[ "$(counter snapshots)" = 0 ] && [ "$(used)" = 0 ]' || fail "$version: $(used) bytes stay"
  stop_containerd; stop_serving
done
