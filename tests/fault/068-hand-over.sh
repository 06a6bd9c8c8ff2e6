#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# long
# A hundred readers compare every byte while the daemon is killed (kill -9) at random moments, again and again:
# they see pauses, no error and no wrong byte. Mounts whose layers come meanwhile and complete ones, by the kernel
# and by FUSE, with one daemon after the other. KILLS= in all, SEED= of the moments, READERS=.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_root; need_fuse
open_fuse
KILLS=${KILLS:-40} READERS=${READERS:-100} SEED=${SEED:-$RANDOM}
start_registry registry
start_shaper line
lazy_image app gzip 1 16
publish app
truth app "$T/truth"
echo "seed=$SEED"
RANDOM=$SEED
# Whose answer a dead daemon owes waits for the next one: no error where the kernel can send it again (Linux 6.9).
resends() { [ "$(printf '%s\n' 6.9 "$(uname -r)" | sort -V | head -1)" = 6.9 ]; }
resends || skip "Linux 6.9 is the first that sends again what a dead daemon had read"
# Of this store: the one that shows the truth has one as well.
holders() {
  local pid
  for pid in $(processes); do
    tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null | grep -q "^imagefs-holder $RUN " && echo "$pid"
  done
  return 0
}
cases() {
  local mode
  for mode in $(modes); do echo "$mode filling"; echo "$mode complete"; done
}
n=$(cases | wc -l)
while read -r mode what; do
  store "$mode-$what"
  m=$M/$mode-$what
  mkdir -p "$m"
  shape set rate=0 >/dev/null
  ifs mount -q --mode "$mode" --deadline 120 "$SHAPED/test/app:1" "$m" >/dev/null
  if [ $what = filling ]; then shape set rate=600kB >/dev/null; else ifs pull -q --wait "$m" >/dev/null; fi
  same "$mode $what: state" $what "$(states "$m" | tr ' ' '\n' | tail -1)"
  kept=$(stat -c %i "$m")
  $PY "$LIB/readers.py" "$T/truth" "$m" "$READERS" "$T/stop" >"$T/said" &
  readers=$!
  for ((k = 0; k < KILLS / n; ++k)); do
    sleep "0.$((RANDOM % 9))"
    slay $(daemons_of "$RUN")
    ifs images >/dev/null
  done
  # What is on its way comes faster now.
  shape set rate=0 >/dev/null
  sleep 1
  touch "$T/stop"
  wait $readers || fail "$mode $what: $(cat "$T/said")"
  rm "$T/stop"
  echo "$mode $what: $((KILLS / n)) kills: $(cat "$T/said")"
  same "$mode $what: the tree that it was" "$kept" "$(stat -c %i "$m")"
  same "$mode $what: mounts there" 1 "$(mounts_below "$m" | wc -l)"
  $PY "$LIB/tree.py" compare "$T/truth" "$m" --disarmed || fail "$mode $what: another tree"
  ifs umount "$m"
  wait_for 10 '[ -z "$(holders)" ]' || fail "$mode $what: the holder stays with nothing to hold"
  ifs stop
done < <(cases)

# Without root, by fusermount3.
rootless() {
  local home uid k
  [ -u "$(command -v fusermount3)" ] || return 0
  home=$T/home
  user_home "$home"
  ROOT=$home/store RUN=$home/run
  as_user "$IMAGEFS" --root "$ROOT" --run "$RUN" mount -q --deadline 120 "$SHAPED/test/app:1" "$home/m" >/dev/null
  # What the truth has for root only, a user cannot read.
  cp -r "$T/truth/usr/lib" "$T/readable"
  chmod -R a+rX "$T/readable"
  as_user $PY "$LIB/readers.py" "$T/readable" "$home/m/usr/lib" 20 "$T/stop" >"$T/said" &
  readers=$!
  for k in 1 2 3 4 5; do
    sleep "0.$((RANDOM % 9))"
    slay $(daemons_of "$RUN")
    as_user "$IMAGEFS" --root "$ROOT" --run "$RUN" images >/dev/null
  done
  sleep 1
  touch "$T/stop"
  wait $readers || fail "rootless: $(cat "$T/said")"
  rm "$T/stop"
  echo "rootless: 5 kills: $(cat "$T/said")"
  same "rootless: mounts there" 1 "$(mounts_below "$home/m" | wc -l)"
  as_user "$IMAGEFS" --root "$ROOT" --run "$RUN" umount "$home/m"
  wait_for 10 '[ -z "$(holders)" ]' || fail "rootless: the holder stays with nothing to hold"
  as_user "$IMAGEFS" --root "$ROOT" --run "$RUN" stop
}
rootless

# Both killed: nobody can go on. Reads fail, at once and not with wrong bytes, and the mount comes back.
for mode in $(modes); do
  store "$mode-both"
  m=$M/$mode-both
  mkdir -p "$m"
  ifs mount -q --mode "$mode" "$SHAPED/test/app:1" "$m" >/dev/null
  exec 9<"$m/usr/lib/random"
  [ -n "$(holders)" ] || fail "$mode: nobody holds the session"
  slay $(holders) $(daemons_of "$RUN")
  ! timeout 10 cat <&9 >"$T/read" 2>/dev/null || fail "$mode: who serves this?"
  cmp -s -n "$(stat -c %s "$T/read")" "$T/truth/usr/lib/random" "$T/read" || fail "$mode: wrong bytes"
  exec 9<&-
  ifs images >/dev/null
  cmp "$T/truth/usr/lib/random" "$m/usr/lib/random" || fail "$mode: it did not come back"
  ifs umount --all
  ifs stop
done
