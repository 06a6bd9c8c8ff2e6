#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# `make soak S=<seconds>`: mounts, unmounts, reads, evictions, pulls, stops, kills and faults of the registry in a
# random order. Ten readers of mounts that are all here compare every byte throughout and may meet no error; every
# other read has the right bytes, or an error while a fault lasts. In the end the daemon has no more memory,
# descriptors, threads and disk than in the beginning. SEED= repeats an order.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_root; need_fuse
S=${S:-3600} SEED=${SEED:-$RANDOM}
echo "soak: $S s, seed=$SEED"
RANDOM=$SEED
configure '[fill]' 'background = true' 'quiet = "1s"' 'deadline = "4s"'
start_registry registry
start_shaper line
names=(one two three)
lazy_image one gzip 1 16
lazy_image two gzip 2 8
lazy_image three zstd 3 8
for name in one two; do publish $name; done
for name in "${names[@]}"; do truth $name "$T/truth-$name"; (cd "$T/truth-$name" && find . -type f -size +0 | sort) >"$T/files-$name"; done
mapfile -t modes < <(modes)
readers=()
store soak
pick() { local n=$#; shift $((RANDOM % n)); echo "$1"; }
calm() { shape rules '[]' >/dev/null; shape set rate=0 rtt=0 >/dev/null; }
daemon() { daemons_of "$RUN"; }

# What has to go on, whatever happens: all of it is here, through sessions where it was shown before.
for mode in "${modes[@]}"; do
  mkdir -p "$M/steady-$mode"
  ifs mount -q --mode "$mode" "$SHAPED/test/one:1" "$M/steady-$mode" >/dev/null
  ifs pull -q --wait "$M/steady-$mode" >/dev/null
  $PY "$LIB/readers.py" "$T/truth-one" "$M/steady-$mode" 5 "$T/stop" >"$T/said-$mode" &
  readers[${#readers[@]}]=$!
done

# "RSS descriptors threads disk" of a daemon that has had a moment of rest.
measure() {
  local pid
  pid=$(daemon)
  echo "$(awk '/^VmRSS/ {print $2}' "/proc/$pid/status") $(ls "/proc/$pid/fd" | wc -l) $(ls "/proc/$pid/task" | wc -l)" \
    "$(du -sk --apparent-size "$ROOT/layers" "$ROOT/chains" "$ROOT/blobs" 2>/dev/null | awk '{sum += $1} END {print sum}')"
}

faulty=  # a fault lasts: reads may fail, never with wrong bytes
declare -A mounted=()
declare -A done_=()
act() {
  local what name dir file mode
  what=$(pick mount mount mount umount umount read read read read read read evict pull rm kill kill stop fault calm calm cold check)
  done_[$what]=$((${done_[$what]:-0} + 1))
  case $what in
    mount)
      name=$(pick "${names[@]}") mode=$(pick "${modes[@]}") dir=$M/m$((RANDOM % 8))
      [ -z "${mounted[$dir]:-}" ] || return 0
      mkdir -p "$dir"
      if ifs mount -q --mode "$mode" $(pick "" "" --rw) "$SHAPED/test/$name:1" "$dir" >"$T/out" 2>&1; then
        mounted[$dir]=$name
      else
        [ -n "$faulty" ] || fail "mount $name: $(cat "$T/out")"
      fi ;;
    umount)
      for dir in "${!mounted[@]}"; do
        ifs umount --lazy "$dir" || fail "umount $dir"
        unset "mounted[$dir]"
        break
      done ;;
    read)
      for dir in "${!mounted[@]}"; do
        name=${mounted[$dir]}
        file=$(sed -n "$((RANDOM % $(wc -l <"$T/files-$name") + 1))p" "$T/files-$name")
        if timeout 30 cat "$dir/$file" >"$T/got" 2>"$T/out"; then
          cmp "$T/truth-$name/$file" "$T/got" || fail "wrong bytes of $name: $file"
        else
          [ -n "$faulty" ] || [ "$((SECONDS - calmed))" -lt 10 ] || fail "read $dir/$file of $name: $(cat "$T/out")"
          cmp -s -n "$(stat -c %s "$T/got")" "$T/truth-$name/$file" "$T/got" || fail "wrong bytes of $name: $file"
        fi
      done ;;
    evict) ifs evict "$SHAPED/test/$(pick "${names[@]}"):1" >/dev/null 2>&1 || true ;;
    pull)
      name=$(pick "${names[@]}")
      ifs pull -q "$SHAPED/test/$name:1" >"$T/out" 2>&1 || [ -n "$faulty" ] || fail "pull $name: $(cat "$T/out")" ;;
    rm) ifs rm "$SHAPED/test/$(pick two three):1" >/dev/null 2>&1 || true ;;
    kill) slay $(daemon); ifs images >/dev/null || fail "no daemon after a kill" ;;
    stop) ifs stop 2>/dev/null || fail "stop"; ifs images >/dev/null || fail "no daemon after a stop" ;;
    fault)
      faulty=yes
      case $((RANDOM % 5)) in
        0) shape set rate=200kB >/dev/null ;;
        1) shape rules '[{"path": "/blobs/", "status": 503}]' >/dev/null ;;
        2) shape rules '[{"path": "/blobs/", "delay": 3600}]' >/dev/null ;;
        3) shape rules '[{"path": "/blobs/", "cut": 3000}]' >/dev/null ;;
        4) shape rules '[{"path": "/blobs/", "wrong_byte": 1000}]' >/dev/null ;;
      esac || fail "the shaper takes no rule" ;;
    calm) [ -z "$faulty" ] || { calm; faulty='' calmed=$SECONDS; } ;;
    cold) echo 1 >/proc/sys/vm/drop_caches ;;
    check) timeout 60 "$IMAGEFS" --root "$ROOT" --run "$RUN" check >"$T/out" 2>&1 || fail "check: $(cat "$T/out")" ;;
  esac
}

begin=$SECONDS calmed=$SECONDS rounds=0
: >"$T/figures"
while [ $((SECONDS - begin)) -lt "$S" ]; do
  act
  rounds=$((rounds + 1))
  # The same state each time: nothing mounted but what is steady, nothing that only this left.
  if [ $((rounds % 60)) = 0 ]; then
    calm; faulty='' calmed=$SECONDS
    for dir in "${!mounted[@]}"; do ifs umount --lazy "$dir"; unset "mounted[$dir]"; done
    ifs rm "$SHAPED/test/two:1" "$SHAPED/test/three:1" >/dev/null 2>&1 || true
    sleep 2
    measure >>"$T/figures"
    for i in "${!readers[@]}"; do kill -0 "${readers[i]}" 2>/dev/null || fail "a reader ended: $(cat "$T"/said-*)"; done
  fi
done
touch "$T/stop"
for i in "${!readers[@]}"; do wait "${readers[i]}" || fail "readers: $(cat "$T"/said-*)"; done
cat "$T"/said-*
for what in "${!done_[@]}"; do echo -n "$what ${done_[$what]}, "; done; echo "$rounds in all"
$PY - "$T/figures" <<'PY' || fail "it grows: $(cat "$T/figures")"
import statistics, sys
rows = [[int(x) for x in line.split()] for line in open(sys.argv[1])]
if len(rows) < 6:
    sys.exit(print(f"{len(rows)} measurements are too few to say whether anything grows"))
third = len(rows) // 3
grown = []
for i, (what, room) in enumerate([("RSS, kB", 16_384), ("descriptors", 16), ("threads", 4), ("disk, kB", 4_096)]):
    first = statistics.median(row[i] for row in rows[:third])
    last = statistics.median(row[i] for row in rows[-third:])
    print(f"{what}: {first:.0f} -> {last:.0f}")
    if last > first * 1.2 + room:
        grown.append(what)
sys.exit(1 if grown else 0)
PY
ifs umount --all
ifs stop --unmount
echo "soak: passed"
