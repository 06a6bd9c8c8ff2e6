#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The power of a machine is cut at random moments of pulls, mounts, reads of what is not here yet, evictions, snapshots'
# commits and of the recovery itself: qemu is killed, and its disk has a cache that forgets. Each next boot, of one kernel
# or the other, finds what was acknowledged, and every byte is right.
#   IMAGEFS_VM_KILLS=N (default 5)   IMAGEFS_VM_SEED=S   IMAGEFS_VM_KERNELS="bookworm trixie"
. "$(dirname "$0")/../lib/lib.sh"
. "$LIB/lazy.sh"
. "$LIB/vm.sh"
need_vm; need go
kills=${IMAGEFS_VM_KILLS:-5} seed=${IMAGEFS_VM_SEED:-$SRANDOM}
read -ra suites <<<"${IMAGEFS_VM_KERNELS:-bookworm trixie}"
echo "seed $seed"
RANDOM=$seed
configure  # what comes by itself comes here as well
mkdir -p "$T/gopath/src/snap"
cp "$TESTS/vm/snap/main.go" "$T/gopath/src/snap/"
(cd "$T/gopath/src/snap" && CGO_ENABLED=0 GO111MODULE=off GOPATH=$T/gopath:/usr/share/gocode \
  GOCACHE=${TEST_BUILD:-$SOURCE/build/release}/go-cache nice go build -o "$T/snap" .) || fail "the client does not compile"
vm_registry
vm_image app gzip 5 12
publish app
vm_image other chunked 6 5
vm_image plain zstd 7 4
vm_file "$T/config.toml" config.toml
vm_system "$T/snap"
vm_disk 2048
$PY "$LIB/volatile_disk.py" "$DISK" "$VM/disk.sock" "$seed" >"$T/disk.log" 2>&1 &
TEST_PIDS+=($!)
wait_for 10 "[ -S '$VM/disk.sock' ]" || fail "no disk"
DRIVE="file=nbd+unix:///?socket=$VM/disk.sock,format=raw,if=none,cache=writeback"
history=$VM/give/vm/history
: >"$history"
for boot in $(seq $((kills + 1))); do
  suite=${suites[RANDOM % ${#suites[@]}]}
  kernel "$suite"
  vm_set SEED $((RANDOM + boot)); vm_set BOOT "$boot"
  if [ "$boot" = $((kills + 1)) ]; then
    vm_set LAST 1
    vm_start power
    vm_end 600
    grep CHECKED "$VM_SAID"
    break
  fi
  vm_start power
  # After some steps have begun and a while more: a slow machine must not mean that only its first step is ever cut. Some
  # cuts come while the daemon starts and the last cut is being mended.
  steps=$((RANDOM % 12 + 1)) moment=$((RANDOM % 4000))
  if [ $((RANDOM % 4)) = 0 ]; then
    steps=0
    vm_until 300 '^up='
  else
    vm_until 900 '^CHECKED'
    wait_for 300 "[ \$(grep -c '^BEGIN' '$VM_SAID') -ge $steps ] || ! vm_runs" || fail "the machine does not work"
  fi
  sleep "$(printf '%d.%03d' $((moment / 1000)) $((moment % 1000)))"
  vm_runs || { vm_words; fail "the machine has ended by itself"; }
  vm_kill
  wait_for 30 "[ \$(grep -c . '$T/disk.log') = $boot ]" || fail "the disk does not end"
  # A line that was cut off was not said.
  cp "$VM_SAID" "$T/said"
  [ -z "$(tail -c 1 "$VM_SAID")" ] || sed -i '$d' "$T/said"
  grep -E '^(BEGIN|ACK) ' "$T/said" >>"$history" || true
  echo "cut $boot of $suite, $(grep -E '^CHECKED' "$VM_SAID" || echo "before the check was over"), $steps steps, $moment ms;" \
    "last: $(tail -n 1 "$T/said"); disk: $(tail -n 1 "$T/disk.log")"
done
grep -q '^ACK' "$history" || fail "no step was ever done before the power was cut"
echo "$kills cuts, $(grep -c ^ACK "$history") acknowledged steps: nothing lost, no byte wrong"
