#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What metrics cost (docs/benchmarks.md): metrics.sh [RUNS [MIB]], as root. A cold mount and everything read, by FUSE, of an
# image of that size, from a registry on loopback: without metrics.listen, with it and a scrape each second, and, if
# IMAGEFS_BEFORE names another build, by that. The three take turns. Then the cost of one scrape.
METRICS_ARGS=${METRICS_ARGS:-$*}
export METRICS_ARGS
. "$(dirname "$0")/../tests/lib/lib.sh"
. "$LIB/lazy.sh"
need_root; need_fuse; need curl
read -r runs mib _ <<<"$METRICS_ARGS 10 64"
start_registry registry
big_image eager a=$((mib / 2)) b=$((mib / 2)); push "$T/images/eager" test/eager:1
lazy_image lazy estargz 1 "$mib"
SOCKET=$T/metrics.sock
sides="off on"
[ -z "${IMAGEFS_BEFORE:-}" ] || sides="before $sides"

# one IMAGE SIDE: appends "SIDE IMAGE seconds CPU-seconds-of-the-daemon" to $T/results.
one() {
  local image=$1 side=$2 begin seconds ticks scraper='' program=$IMAGEFS
  [ "$side" != before ] || program=$IMAGEFS_BEFORE
  rm -rf --one-file-system "$ROOT"; mkdir -p "$M/x"
  configure '[fill]' 'background = false'
  [ "$side" != on ] || configure '[metrics]' "listen = \"$SOCKET\"" '[fill]' 'background = false'
  echo 3 >/proc/sys/vm/drop_caches
  "$program" --root "$ROOT" --run "$RUN" ls >/dev/null
  if [ "$side" = on ]; then
    (while curl -fsS --unix-socket "$SOCKET" http://localhost/metrics >"$T/scrape" 2>/dev/null; do sleep 1; done) & scraper=$!
  fi
  begin=${EPOCHREALTIME/./}
  "$program" --root "$ROOT" --run "$RUN" mount -q --mode fuse "$REGISTRY/test/$image:1" "$M/x" >/dev/null
  find "$M/x" -type f -exec cat {} + >/dev/null
  seconds=$((${EPOCHREALTIME/./} - begin))
  ticks=$(awk '{sub(/.*\) /, ""); print $12 + $13}' "/proc/$("$program" --root "$ROOT" --run "$RUN" status --json | field 'j["pid"]')/stat")
  "$program" --root "$ROOT" --run "$RUN" stop --unmount
  [ -z "$scraper" ] || wait "$scraper" || true
  echo "$side $image $seconds $((ticks * 1000000 / $(getconf CLK_TCK)))" >>"$T/results"
}
for image in eager lazy; do
  for side in $sides; do one $image "$side"; done   # not counted: the registry's files get into the page cache
done
rm "$T/results"
for run in $(seq "$runs"); do
  for image in eager lazy; do
    # Each in each place of the row, in turn.
    read -ra row <<<"$sides"
    for i in "${!row[@]}"; do one $image "${row[$(((i + run) % ${#row[@]}))]}"; done
  done
done
$PY - "$T/results" <<'PY'
import collections, statistics, sys
got = collections.defaultdict(list)
for line in open(sys.argv[1]):
    side, image, seconds, cpu = line.split()
    got[image, side].append((int(seconds) / 1e6, int(cpu) / 1e6))
for (image, side), rows in sorted(got.items()):
    seconds, cpu = zip(*rows)
    print(f"{image:6} {side:7} {len(rows)} runs: {statistics.median(seconds):.3f} s (from {min(seconds):.3f} to {max(seconds):.3f}), "
          f"daemon {statistics.median(cpu):.3f} CPU s (from {min(cpu):.3f} to {max(cpu):.3f})")
PY

# ---- a scrape
configure '[metrics]' "listen = \"$SOCKET\""
ifs mount -q --mode fuse "$REGISTRY/test/lazy:1" "$M/x" >/dev/null
pid=$(ifs status --json | field 'j["pid"]')
ticks() { awk '{sub(/.*\) /, ""); print $12 + $13}' "/proc/$pid/stat"; }
before=$(ticks) begin=${EPOCHREALTIME/./}
for _ in $(seq 500); do curl -fsS --unix-socket "$SOCKET" http://localhost/metrics >"$T/scrape"; done
echo "500 scrapes of $(wc -c <"$T/scrape") bytes: $(((${EPOCHREALTIME/./} - begin) / 500)) us each with curl, of them $((($(ticks) - before) * 1000000 / $(getconf CLK_TCK) / 500)) us of the daemon's processor time"
ifs stop --unmount
