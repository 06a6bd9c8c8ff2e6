#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Images whose layers trickle, whole and lazily, take neither the workers that unpack layers nor the places of
# requests for parts from others: an honest image is pulled as a whole, a lazy one is read byte by byte.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
. "$(dirname "$0")/../lib/hostile.sh"
need_root; need_fuse
own_network
start_registry registry
start_hostile hostile
lazy_image app gzip app 6
lazy_image evil gzip evil 32
publish app
publish evil
lazy_image whole gzip 7 4
truth app "$T/truth"
truth whole "$T/truth-whole"
start_shaper line
hostile=127.0.0.1:$HOSTILE_PORT
hogs=()
ask() { timeout 300 "$@" >/dev/null 2>>"$T/hogs" & hogs+=($!); }
end_hogs() {
  kill -INT "${hogs[@]}" 2>/dev/null || true
  wait "${hogs[@]}" 2>/dev/null || true
  hogs=()
}
# honest MODE WHAT: an image is pulled as a whole and is right, a lazy one is read.
honest() {
  timeout 60 "$IMAGEFS" --root "$ROOT" --run "$RUN" pull -q "$REGISTRY/test/whole:1" >/dev/null ||
    fail "$1 $2: pull of an honest image"
  ifs mount -q --mode fuse --pull never "$REGISTRY/test/whole:1" "$M/whole" >/dev/null
  diff -r --no-dereference "$T/truth-whole/usr" "$M/whole/usr" >"$T/diff" || { head -3 "$T/diff"; fail "$1 $2: the pulled tree"; }
  diff -r --no-dereference "$T/truth/usr" "$M/$1/usr" >"$T/diff" || { head -3 "$T/diff"; fail "$1 $2: the lazy tree"; }
}
# requests NAME: for parts of that mount, on their way.
requests() { ifs status --json "$M/$1" | field 'sum(len(l["in_flight"]) for l in j["layers"])'; }
mkdir -p "$M/whole" "$M/evil"

for mode in $(modes); do
  mkdir -p "$M/$mode"
  for behaviour in hogtar hoggzip; do
    store "$mode-$behaviour"
    ifs mount -q --mode "$mode" --deadline 20 "$REGISTRY/test/app:1" "$M/$mode" >/dev/null
    for name in a b c; do
      ask "$IMAGEFS" --root "$ROOT" --run "$RUN" pull -q "$hostile/$behaviour/$name:1"
    done
    wait_for 30 "[ \$(held $behaviour) -ge 8 ]" || fail "$behaviour: holds $(held $behaviour)"
    honest "$mode" "$behaviour"
    end_hogs
    ifs umount --all
    ifs stop
  done

  # A lazy image whose registry slows down when it is shown, and is read in many places at once.
  store "$mode-lazy"
  shape set rate=1000Mbit >/dev/null
  ifs mount -q --mode "$mode" --deadline 20 "$REGISTRY/test/app:1" "$M/$mode" >/dev/null
  ifs mount -q --mode "$mode" --deadline 120 "$SHAPED/test/evil:1" "$M/evil" >/dev/null
  [ "$(counter layers_lazy)" = 4 ] || fail "$mode: the hostile image is not lazy"
  shape set rate=10kB >/dev/null
  find "$M/evil/usr" -type f -size +8k >"$T/files"
  while read -r file; do ask cat "$file"; done < <(sed -n 1,200p "$T/files")
  # Of the eight places, the windows of its two layers may have two.
  wait_for 20 "[ \$(requests evil) -ge 6 ]" || fail "$mode: $(requests evil) requests are on their way"
  honest "$mode" lazy
  [ "$(requests evil)" -ge 6 ] || fail "$mode: the hostile registry was not slow"
  shape set rate=1000Mbit >/dev/null
  end_hogs
  ifs umount --all
  ifs stop
done
