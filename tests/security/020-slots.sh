#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# long
# One image of a hostile registry, with 80 layers that are redirected to 80 hosts and come slowly or not at
# all, takes no connections from others: a reader of an honest lazy image gets every byte, and a question
# about an honest image is answered. What trickles ends by itself.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
. "$(dirname "$0")/../lib/hostile.sh"
need_root; need_fuse
own_network
start_registry registry
start_hostile hostile
lazy_image app gzip 6 6
publish app
truth app "$T/truth"
hostile=127.0.0.1:$HOSTILE_PORT
hogs=()
ask() { timeout 300 "$IMAGEFS" --root "$ROOT" --run "$RUN" "$@" >/dev/null 2>>"$T/hogs" & hogs+=($!); }

for mode in $(modes); do
  for behaviour in hog hograte hogsilent hogmute hogown; do
    store "$mode-$behaviour"
    mkdir -p "$M/$mode"
    ifs mount -q --mode "$mode" --deadline 20 "$REGISTRY/test/app:1" "$M/$mode" >/dev/null
    hogs=()
    ask pull -q "$hostile/$behaviour/a:1"
    ask pull -q "$hostile/$behaviour/b:1"
    wait_for 30 "[ \$(held $behaviour) -ge 8 ]" || fail "$behaviour: holds $(held $behaviour)"
    cmp "$T/truth/usr/lib/random" "$M/$mode/usr/lib/random" || fail "$mode $behaviour: a read"
    timeout 20 "$IMAGEFS" --root "$ROOT" --run "$RUN" inspect --pull always "$REGISTRY/test/app:1" >/dev/null ||
      fail "$mode $behaviour: inspect"
    diff -r --no-dereference "$T/truth/usr" "$M/$mode/usr" >"$T/diff" || { head -3 "$T/diff"; fail "$mode $behaviour: the tree"; }
    wait_for 10 "[ \$(held $behaviour) -le 24 ]" || fail "$behaviour: holds $(held $behaviour)"
    kill -INT "${hogs[@]}" 2>/dev/null || true
    wait "${hogs[@]}" 2>/dev/null || true
    ifs umount --all
    ifs stop
  done
done

# What trickles ends by itself, with one line that says why.
store ends
refusals=()
for behaviour in slowmanifest slowconfig slowblob slowerror slowtoken slowheaders slowinterim chunked; do
  (
    T=$T/$behaviour
    mkdir "$T"
    refuse 8 "127.0.0.1:$HOSTILE_PORT.*(has sent|has not|least rate).*check the network and the registry" \
      timeout 240 "$IMAGEFS" --root "$ROOT" --run "$RUN" pull -q "$hostile/$behaviour/a:1"
  ) &
  refusals+=($!)
done
for pid in "${refusals[@]}"; do wait "$pid" || fail "a registry that trickles"; done
ifs stop
