# SPDX-License-Identifier: Apache-2.0
# Sourced by what runs inside of a virtual machine: bash, with busybox for everything else. What the host gives
# (vm_set) is in /vm/environment; `say` is the line to it.
set -uo pipefail
[ ! -e /vm/environment ] || . /vm/environment

say() { printf '%s\n' "$*" >&3; }
fail() { say "FAILED: $*"; exit 1; }
same() { [ "$2" = "$3" ] || fail "$1: expected '$2', got '$3'"; }
wait_for() {  # SECONDS CONDITION
  local until=$((SECONDS + $1))
  until eval "$2"; do
    [ $SECONDS -le $until ] || return 1
    sleep 0.1
  done
}
now() { echo "${EPOCHREALTIME/./}"; }
since() { local us=$((${EPOCHREALTIME/./} - $1)); printf '%d.%d' $((us / 1000000)) $((us / 100000 % 10)); }

network() {  # up|down
  if [ "$1" = down ]; then ifconfig eth0 down; return; fi
  ifconfig eth0 10.0.2.15 netmask 255.255.255.0 up || fail "no network"
}

# disk: the store's disk, with its journal replayed.
disk() { mount -t ext4 /dev/vda /disk || fail "the disk cannot be mounted"; }

export IMAGEFS_CHECK_THREADS=1 IMAGEFS_CONFIG=/vm/config.toml DOCKER_CONFIG=/root IMAGEFS_CA_FILE=/vm/ca.pem
ifs() { imagefs --root /disk/store --run /run/imagefs "$@"; }
must() { local said; said=$("$@" 2>&1) || fail "$*: $said"; }

# The daemon's process; the command that is given is not one.
daemon() { pidof imagefsd; }
# GONE: the longest that a killed one took to be gone, in milliseconds. A thread of the idle class that is the last to
# end takes the address space down at that class, and keeps lock and sockets meanwhile.
GONE=0
kill_daemon() {
  local pid begin
  pid=$(daemon) || fail "there is no daemon to kill"
  begin=$(now)
  kill -9 $pid
  wait_for 200 "! kill -0 $pid 2>/dev/null" || { where_is "$pid"; fail "the killed daemon is still there"; }
  begin=$((($(now) - begin) / 1000))
  [ $begin -le $GONE ] || GONE=$begin
}
# mode_of, state_of DIR: as `imagefs ls` has them; it starts a daemon where there is none.
mode_of() { ifs ls | awk -v at="$1" '$1 == at { print $3 }'; }
state_of() { ifs ls | awk -v at="$1" '$1 == at { for (i = 6; i <= NF; i++) printf "%s%s", $i, i < NF ? " " : "\n" }'; }
# back DIR: shown again.
back() {
  wait_for 60 "case \$(state_of $1) in not* | '') false ;; esac" || fail "$1 does not come back: $(state_of "$1")"
}
# loop_devices: how many there are over files of the store.
loop_devices() { cat /sys/block/loop*/loop/backing_file 2>/dev/null | grep -c '^/disk/store/'; }
mounted() { grep -q " $1 " /proc/self/mountinfo; }
type_of() { awk -v at="$1" '$5 == at { sub(/.* - /, ""); print $1 }' /proc/self/mountinfo | tail -n 1; }

# listing DIR: names, modes, owners, times, link targets and digests of all but the device node, which a tree that is not
# proven yet does not show (docs/security.md). The host makes the truth by the same lines of what another tool unpacked.
listing() (
  cd "$1" || exit 1
  find . ! -path ./var/null ! -type d -print0 | sort -z | xargs -0 stat -c '%n %f %u %g %s %Y' &&
    find . -type d -print0 | sort -z | xargs -0 stat -c '%n %f %u %g %Y' &&
    find . -type l -print0 | sort -z | xargs -0 -n 1 readlink &&
    find . ! -path ./var/null -type f -print0 | sort -z | xargs -0 sha256sum
)
# right WHAT DIR TRUTH: every byte.
right() {
  listing "$2" >/tmp/listing 2>/tmp/listing.err || fail "$1: $(head -n 3 /tmp/listing.err)"
  cmp -s /tmp/listing "/vm/$3" || fail "$1: wrong: $(diff /tmp/listing "/vm/$3" | grep '^[+-][^+-]' | head -n 3)"
}

# where_is PID: what each thread of a process waits for.
where_is() {
  local task
  for task in /proc/"$1"/task/*; do
    say "$(cat "$task/comm") $(sed -n 's/^State:.//p' "$task/status") $(cat "$task/syscall" | cut -d' ' -f1-3) $(head -n 8 "$task/stack" | sed 's/^[^ ]* //' | tr '\n' ' ')"
  done
}
