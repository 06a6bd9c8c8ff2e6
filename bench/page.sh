#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The status page (docs/benchmarks.md): page.sh [MOUNTS [RUNS]], as root. How long it takes with so many lazy mounts, and, if
# IMAGEFS_BEFORE names the program of a build that records nothing, what recording costs a cold start.
PAGE_ARGS=${PAGE_ARGS:-$*}
export PAGE_ARGS
. "$(dirname "$0")/../tests/lib/lib.sh"
. "$LIB/lazy.sh"
need_root; need_fuse; need curl
read -r mounts runs _ <<<"${PAGE_ARGS:-1000} 24"
before=${IMAGEFS_BEFORE:-}
start_registry registry
for i in 1 2 3 4 5; do lazy_image "app$i" gzip "$i" 4; publish "app$i"; done
SOCKET=$T/metrics.sock
configure '[metrics]' "listen = \"$SOCKET\"" 'page = true' '[fill]' 'background = false'
store page
for i in $(seq "$mounts"); do mkdir -p "$M/$i"; done
seq "$mounts" | xargs -P 4 -I{} sh -c 'exec "$0" --root "$1" --run "$2" mount -q --mode fuse "$3/test/app$(({} % 5 + 1)):1" "$4/{}" >/dev/null' \
  "$IMAGEFS" "$ROOT" "$RUN" "$REGISTRY" "$M"
for i in $(seq $((mounts < 100 ? mounts : 100))); do head -c 4096 "$M/$i/usr/lib/random" >/dev/null; done
get() { curl -fsS --unix-socket "$SOCKET" -o "$T/$1.html" -w "$1: %{time_total} s, %{size_download} bytes\n" "http://localhost/$2"; }
for _ in 1 2 3 4 5 6 7 8 9; do get overview ''; get mount "mount?directory=$M/7"; done
if command -v chromium >/dev/null; then
  $PY - "$LIB" "$T" <<'PY'
import sys
sys.path.insert(0, sys.argv[1])
from browser import Browser
with Browser() as browser:
    for url in ("about:blank", f"file://{sys.argv[2]}/overview.html", f"file://{sys.argv[2]}/mount.html"):
        print("opened in", sorted(round(browser.open(url), 3) for _ in range(9)), "s:", url)
PY
fi
ifs stop --unmount >/dev/null
[ -n "$before" ] || exit 0

one() {  # one LABEL PROGRAM: a cold start, and everything read
  local began mounted ended
  IMAGEFS=$2
  store cold
  rm -rf "$ROOT" "$RUN"
  mkdir -p "$M/cold"
  began=$(date +%s%N)
  ifs mount -q --mode fuse "$REGISTRY/test/cold:1" "$M/cold" >/dev/null
  mounted=$(date +%s%N)
  find "$M/cold" -type f -exec cat {} + >/dev/null
  ended=$(date +%s%N)
  pid=$(ifs status --json | field 'j["pid"]')
  echo "$1 $(((mounted - began) / 1000)) $(((ended - mounted) / 1000)) $(awk '{print ($14 + $15) * 10}' "/proc/$pid/stat")"
  ifs stop --unmount >/dev/null
}
configure '[fill]' 'background = false'
lazy_image cold gzip 9 40; publish cold
after=$IMAGEFS
for i in $(seq "$runs"); do
  if ((i % 2)); then one before "$before"; one after "$after"; else one after "$after"; one before "$before"; fi
done >"$T/rows"
$PY - "$T/rows" <<'PY'
import statistics, sys
rows = [line.split() for line in open(sys.argv[1])]
for label in ("before", "after"):
    columns = list(zip(*(map(int, row[1:]) for row in rows if row[0] == label)))
    print(label, "mounted in, read in (us), CPU of the daemon (ms):", [(statistics.median(c), min(c), max(c)) for c in columns])
PY
