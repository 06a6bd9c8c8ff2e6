#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The sizes of docs/install.md: sizes.sh [MOUNTS [LAYOUT...]], as root. Programs and package; the daemon idle and with that
# many mounts of one image and of as many images; what each LAYOUT (an OCI layout with one image) takes in the store.
SIZES_ARGS=("${@:-200}")
. "$(dirname "$0")/../tests/lib/lib.sh"
need_root; need_fuse; need cpack
build=${IMAGEFS_BUILD:-$SOURCE/build/release}
mounts=${SIZES_ARGS[0]} layouts=("${SIZES_ARGS[@]:1}")
mib() { awk '{printf "%.2f MiB", $1 / 1048576}'; }

cmake --install "$build" --strip --prefix "$T/installed" --component Unspecified >"$T/install.out"
for program in bin/imagefs bin/imagefsd libexec/imagefs/imagefs-holder; do
  echo "${program##*/}: $(stat -c %s "$T/installed/$program" | mib)"
done
cpack --config "$build/CPackConfig.cmake" -B "$T/package" >"$T/cpack.out"
deb=$(echo "$T"/package/*.deb)
echo "package: $(stat -c %s "$deb" | mib), installed $(($(dpkg-deb -f "$deb" Installed-Size) * 1024 / 1048576)) MiB"

daemon() {  # daemon WHAT
  local pid
  pid=$(ifs status --json | field 'j["pid"]')
  awk -v what="$1" -v fds="$(find "/proc/$pid/fd" -mindepth 1 | wc -l)" -v threads="$(find "/proc/$pid/task" -mindepth 1 -maxdepth 1 | wc -l)" \
    '/^Rss:/ {rss = $2} /^Anonymous:/ {own = $2} END {
      printf "%s: %.1f MiB resident, %.1f of them anonymous; %d descriptors, %d threads\n", what, rss / 1024, own / 1024, fds, threads}' \
    "/proc/$pid/smaps_rollup"
}
ticks() { awk '{sub(/.*\) /, ""); print $12 + $13}' "/proc/$(ifs status --json | field 'j["pid"]')/stat"; }

$PY - "$LIB" "$T/images" "$mounts" <<'PY'
import sys
sys.path.insert(0, sys.argv[1])
from oci import *
for n in range(int(sys.argv[3])):
    tar = Tar().dir("d")
    for k in range(1000):
        tar.file(f"d/file{k}", b"%d %d" % (n, k))
    simple_image(f"{sys.argv[2]}/{n}", [Layer(tar)])
PY
# Each figure is of a daemon of its own.
start() {
  rm -rf --one-file-system "$ROOT"
  "$IMAGEFS" --root "$ROOT" --run "$RUN" daemon --idle-exit 0 2>"$T/log" & TEST_PIDS+=($!)
  wait_for 20 'ifs status >/dev/null 2>&1'
}
start
daemon "daemon, idle"
begin=$(ticks); sleep 60
echo "daemon, idle: $((($(ticks) - begin) * 1000 / $(getconf CLK_TCK))) ms of processor time a minute"
ifs stop --unmount
for n in $(seq 0 $((mounts - 1))); do mkdir -p "$M/$n"; done
for mode in $(modes); do
  start
  for n in $(seq 0 $((mounts - 1))); do ifs mount -q --mode "$mode" "oci:$T/images/0" "$M/$n" >/dev/null; done
  daemon "daemon, $mounts mounts of one image, $mode"
  ifs stop --unmount
  start
  for n in $(seq 0 $((mounts - 1))); do ifs mount -q --mode "$mode" "oci:$T/images/$n" "$M/$n" >/dev/null; done
  find "$M" >/dev/null
  daemon "daemon, mounts of $mounts images of 1,000 files, $mode"
  ifs stop --unmount
done
start
for layout in ${layouts[@]+"${layouts[@]}"}; do
  ifs pull -q "oci:$layout" >/dev/null
  ifs images --json | field '"%s: %d layers, %.1f MB compressed, %.1f MB of files, %.1f MB on the disk" % (
    j[0]["reference"], j[0]["layers"], j[0]["compressed_bytes"] / 1e6, j[0]["unpacked_bytes"] / 1e6, j[0]["disk_bytes"] / 1e6)'
  ifs df --json | field '"of these: " + ", ".join("%s %.2f MB" % (k["kind"], k["disk_bytes"] / 1e6) for k in j["kinds"] if k["disk_bytes"])'
  ifs rm "oci:$layout" >/dev/null
done
