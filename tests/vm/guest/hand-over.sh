# SPDX-License-Identifier: Apache-2.0
# Readers of a mount whose daemon is killed and stopped again and again: pauses, and no error but EINTR where the kernel
# cannot send a request again.
say "kernel=$(uname -r) $(fuse_init) up=$(cut -d' ' -f1 /proc/uptime)"
disk
RANDOM=$SEED
mkdir -p /m/a /tmp/readers
declare -A digest=()
while read -r sum name; do digest[$name]=$sum; done < <(grep -E '^[0-9a-f]{64}  ' /vm/app.truth)
[ ${#digest[@]} -gt 100 ] || fail "no digests"

# reader N: every file again and again, in an order of its own; what is wrong goes to a file of its own.
reader() {
  local name said began us longest=0 reads=0 interrupted=0
  cd /m/a || exit 1
  while [ ! -e /tmp/stop ]; do
    while read -r name; do
      [ ! -e /tmp/stop ] || break
      began=$(now)
      said=$(sha256sum "$name" 2>&1)
      us=$(($(now) - began)) reads=$((reads + 1))
      [ $us -le $longest ] || longest=$us
      case $said in
        "${digest[$name]}  $name") ;;
        *'nterrupted system call') interrupted=$((interrupted + 1)) ;;
        *) echo "$name: $said" >>/tmp/readers/wrong ;;
      esac
    done < <(printf '%s\n' "${!digest[@]}" | shuf)
  done
  echo "$reads $interrupted $longest" >"/tmp/readers/$1"
}

# under WHAT STOPS: the daemon comes and goes under four readers, an open file and a working directory; of four times,
# STOPS times by `imagefs stop`, the others by kill -9.
under() {
  local what=$1 stops=$2 number how part rest kept pids=()
  rm -rf /tmp/stop /tmp/readers/*
  kept=$(stat -c %i /m/a)
  exec 4<"/m/a/usr/lib/random"
  part=$(dd bs=100000 count=1 <&4 2>/dev/null | wc -c)
  for number in 1 2 3 4; do
    reader $number &
    pids+=($!)
  done
  for number in $(seq "$KILLS"); do
    sleep "0.$((RANDOM % 9))"
    how=$((RANDOM % 4))
    if [ $how -lt "$stops" ]; then must ifs stop; else kill_daemon; fi
    # What is in memory asks no daemon.
    echo 3 >/proc/sys/vm/drop_caches
    sleep "0.$((RANDOM % 9))"
    must ifs ls
  done
  rest=$(sha256sum <&4 | cut -d' ' -f1) || fail "$what: the open file"
  exec 4<&-
  same "$what: the rest of the open file" "$(tail -c +$((part + 1)) /m/a/usr/lib/random | sha256sum | cut -d' ' -f1)" "$rest"
  touch /tmp/stop
  wait_for 60 '[ $(ls /tmp/readers/[1-4] 2>/dev/null | wc -l) = 4 ]' || fail "$what: readers hang"
  wait "${pids[@]}"
  [ ! -e /tmp/readers/wrong ] || fail "$what: $(wc -l </tmp/readers/wrong) reads: $(head -n 3 /tmp/readers/wrong)"
  same "$what: the tree that it was" "$kept" "$(stat -c %i /m/a)"
  say "$what: mode=$(mode_of /m/a) kills=$KILLS $(awk '{ reads += $1; interrupted += $2; if ($3 > longest) longest = $3 }
    END { printf "reads=%d interrupted=%d longest=%.1f", reads, interrupted, longest / 1e6 }' /tmp/readers/[1-4]) daemon_gone_after=$GONE ms"
  if [ "$RESENDS" = yes ]; then
    [ "$(awk '{ n += $2 } END { print n }' /tmp/readers/[1-4])" = 0 ] || fail "$what: interrupted, though the kernel can send again"
  fi
}

RESENDS=$(fuse_init | sed 's/.*resend=\([a-z]*\).*/\1/')
must ifs mount -q --deadline 120 "$REGISTRY/test/app:1" /m/a
under "while it fills" 1
must ifs pull -q --wait /m/a
under "complete, shown before" 1
must ifs umount /m/a
must ifs mount -q --mode fuse "$REGISTRY/test/app:1" /m/a
right "FUSE" /m/a app.truth
under "complete, by FUSE" 1
must ifs umount /m/a
must ifs stop
