# SPDX-License-Identifier: Apache-2.0
# Sourced by every script test. Gives it a folder of its own ($T), a store and a run directory, a
# registry on a loopback port, and an end that leaves no mount and no process behind.
# Exit status 77 means skipped: use `skip REASON`.
set -euo pipefail

LIB=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
TESTS=$(dirname "$LIB")
SOURCE=$(dirname "$TESTS")
PY=/usr/bin/python3
IMAGEFS=${IMAGEFS:-$SOURCE/build/release/imagefs}
T=$(mktemp -d "${TMPDIR:-/tmp}/imagefs-test.XXXXXX")
T=$(cd "$T" && pwd -P)
ROOT=$T/root RUN=$T/run M=$T/m
mkdir -p "$M" "$T/docker"
echo '{}' >"$T/docker/config.json"
chmod 755 "$T"
TEST_PIDS=()
# What blocks on a thread that may not (base/thread_role.h) aborts the daemon.
export IMAGEFS_CHECK_THREADS=1
AT_END=()  # functions that run at the end, before unmounting
export XDG_CONFIG_HOME=$T/config XDG_DATA_HOME=$T/data DOCKER_CONFIG=$T/docker
unset REGISTRY_AUTH_FILE http_proxy https_proxy HTTP_PROXY HTTPS_PROXY no_proxy NO_PROXY || true

skip() {
  echo "skip: $*"
  exit 77
}

fail() {
  local lines="${BASH_LINENO[*]}"
  echo "FAILED: $* (lines ${lines% 0})" >&2
  exit 1
}

# Mount points below $1, deepest first.
mounts_below() {
  awk '{print $5}' /proc/self/mountinfo | sed 's/\\040/ /g' | grep -E "^$1(/|$)" | sort -r || true
}

# Processes that have $T in their command line: everything that this test started, and nothing else. One search of all:
# a program a process would take half a second, and this is asked again and again. The search does not find itself.
processes() {
  local pid
  while IFS=/ read -r _ _ pid _; do
    [ "$pid" = $$ ] || [ "$pid" = "$BASHPID" ] || echo "$pid"
  done < <(grep -sla -e "${T}[/]" /proc/[0-9]*/cmdline || true)
  return 0
}

# The daemons of this test; a mount in the foreground is one as well.
daemons() {
  local pid
  for pid in $(processes); do
    [ "$(readlink "/proc/$pid/exe" 2>/dev/null)" = "$(readlink -f "$IMAGEFS")d" ] && echo "$pid"
  done
  return 0
}

# kill -9 of one's own processes, and wait until they are gone (a zombie counts as gone).
slay() {
  local pid
  for pid in "$@"; do kill -9 "$pid" 2>/dev/null || true; done
  for pid in "$@"; do
    wait_for 10 "! kill -0 $pid 2>/dev/null || grep -q '^State:.Z' /proc/$pid/status 2>/dev/null" || true
  done
}

# Those of TEST_PIDS that still are this script's children. The number of one that ended long ago may be another test's
# daemon by now: a machine that runs all of them goes through 32768 numbers in minutes.
children_left() {
  local pid
  for pid in ${TEST_PIDS[@]+"${TEST_PIDS[@]}"}; do
    grep -qE "^PPid:[[:space:]]+$$\$" "/proc/$pid/status" 2>/dev/null && echo "$pid"
  done
  return 0
}

cleanup() {
  local status=$? mount function
  set +e
  trap - EXIT ERR
  if [ $status != 0 ] && [ $status != 77 ]; then
    for log in "$RUN"/daemon.log "$T"/*.log "$T"/daemon.out; do
      [ -s "$log" ] && { echo "--- $log (end)"; grep -vE 'level=|"(POST|PUT|HEAD) ' "$log" | tail -n 25 | cut -c1-300; }
    done
  fi
  for function in ${AT_END[@]+"${AT_END[@]}"}; do $function; done
  for mount in $(mounts_below "$T"); do timeout 10 umount "$mount" 2>/dev/null || umount -l "$mount" 2>/dev/null; done
  slay $(processes) $(children_left) 2>/dev/null
  for mount in $(mounts_below "$T"); do umount -l "$mount" 2>/dev/null; done
  if [ -n "${IMAGEFS_TEST_KEEP:-}" ]; then
    echo "kept: $T"
  else
    rm -rf --one-file-system "$T"
  fi
  exit $status
}
trap cleanup EXIT
trap 'exit 130' INT TERM
trap 'echo "FAILED: line $LINENO: $BASH_COMMAND" >&2' ERR
set -E

# wait_for SECONDS CONDITION: polls until the shell condition holds. The seconds are what a machine takes that others use
# as well; one that is overloaded is given four times as long, since a failure would say nothing. It pauses for as long as
# the condition takes, so that what waits leaves the processors to what works.
wait_for() {
  local deadline=$((${EPOCHREALTIME/./} + $1 * 4000000)) _asked _pause
  while _asked=${EPOCHREALTIME/./} && ! eval "$2"; do
    _pause=$((${EPOCHREALTIME/./} - _asked))
    [ $((_asked + _pause)) -lt $deadline ] || return 1
    _pause=$((_pause < 20000 ? 20000 : _pause > 500000 ? 500000 : _pause))
    printf -v _pause '0.%06d' $_pause
    sleep $_pause
  done
}

need_root() { [ "$(id -u)" = 0 ] || skip "needs root"; }
need_fuse() { [ -c /dev/fuse ] || skip "no /dev/fuse"; }
need() { command -v "$1" >/dev/null || skip "$1 is not installed"; }

# Some machines keep /dev/fuse from users: the script starts again in a mount namespace that has a node of
# its own, which is open.
open_fuse() {
  local status=0
  if [ "$(stat -c %a /dev/fuse)" != 666 ] && [ -z "${IMAGEFS_TEST_NAMESPACE:-}" ]; then
    IMAGEFS_TEST_NAMESPACE=1 unshare -m --propagation private "$0" || status=$?
    exit $status
  fi
  [ -n "${IMAGEFS_TEST_NAMESPACE:-}" ] || return 0
  mknod -m 666 "$T/fuse" c 10 229
  mount --bind "$T/fuse" /dev/fuse
}

# In a mount namespace of one's own: from here on /dev has hardly anything, and no fuse.
hide_fuse() {
  local node name major minor
  [ -n "${IMAGEFS_TEST_NAMESPACE:-}" ] || fail "hide_fuse would hide the machine's /dev"
  mkdir "$T/dev"
  mount -t tmpfs tmpfs "$T/dev"
  for node in null:1:3 zero:1:5 random:1:8 urandom:1:9; do
    IFS=: read -r name major minor <<<"$node"
    mknod -m 666 "$T/dev/$name" c "$major" "$minor"
  done
  ln -s /proc/self/fd "$T/dev/fd"
  mount --move "$T/dev" /dev
}

# The presentations that this machine can show, one a line; the kernel's, from files, is probed, never assumed. From loop
# devices it shows only what is whole, so that most tests are not for it.
# A machine that cannot is told of loudly, once. The answer is kept in a file, because most ask from a subshell.
modes() {
  local found=$T/probe/kernel_mode
  echo fuse
  if [ -z "${KERNEL_MODE:-}" ] && [ ! -e "$found" ]; then
    mkdir -p "$T/probe/m"
    KERNEL_MODE=no
    $PY "$TESTS/golden/make_images.py" "$T/probe/images" empty
    "$IMAGEFS" --root "$T/probe/root" --run "$T/probe/run" mount -q --mode kernel \
      "oci:$T/probe/images/empty" "$T/probe/m" >/dev/null 2>"$T/probe/err" && KERNEL_MODE=yes
    ! grep 'kernel_presentation by=loop_devices' "$T/probe/run/daemon.log" >>"$T/probe/err" || KERNEL_MODE=no
    "$IMAGEFS" --root "$T/probe/root" --run "$T/probe/run" stop --unmount
    [ $KERNEL_MODE = yes ] || echo "NOT TESTED: kernel mode: $(cat "$T/probe/err")" >&2
    echo $KERNEL_MODE >"$found"
  fi
  [ "${KERNEL_MODE:-$(cat "$found")}" = no ] || echo kernel
}
need_kernel_mode() { modes | grep -qx kernel || skip "this machine has no kernel presentation"; }

ifs() { timeout -k 5 120 "$IMAGEFS" --root "$ROOT" --run "$RUN" "$@"; }

# field JSON_EXPRESSION: evaluates a Python expression over the JSON on stdin, bound to `j`.
field() {
  $PY -c 'import json,sys
j = json.load(sys.stdin)
r = eval(sys.argv[1])
print(r if isinstance(r, str) else json.dumps(r))' "$1"
}

same() {  # same WHAT EXPECTED ACTUAL
  [ "$2" = "$3" ] || fail "$1: expected '$2', got '$3'"
}

# refuse STATUS[|STATUS]... REGEX COMMAND...: the command fails with that status (docs/json.md), says one line on stderr that
# starts with "imagefs: " and matches, and prints nothing on stdout.
refuse() {
  local want=$1 regex=$2 status=0
  shift 2
  "$@" >"$T/out" 2>"$T/err" || status=$?
  [[ "|$want|" = *"|$status|"* ]] || { cat "$T/err" >&2; fail "status $status instead of $want: $*"; }
  grep -qiE "$regex" "$T/err" || { cat "$T/err" >&2; fail "the message does not say /$regex/: $*"; }
  [ "$(grep -c . "$T/err")" = 1 ] || { cat "$T/err" >&2; fail "more than one line on stderr: $*"; }
  grep -q '^imagefs: ' "$T/err" || { cat "$T/err" >&2; fail "the message does not start with 'imagefs: ': $*"; }
  [ ! -s "$T/out" ] || { cat "$T/out" >&2; fail "a refusal prints on stdout: $*"; }
}

# Nothing is mounted at or below the directories, and no half-made file is in the store.
nothing_left() {
  local directory left
  for directory in "$@"; do
    [ -z "$(mounts_below "$directory")" ] || fail "still mounted: $(mounts_below "$directory")"
  done
  if [ -d "$ROOT/blobs" ]; then
    left=$(find "$ROOT/blobs" -type f)
    [ -z "$left" ] || fail "left in the store: $left"
  fi
}

# ---- images

# image NAME...: makes images of the golden suite under $T/images.
image() { $PY "$TESTS/golden/make_images.py" "$T/images" "$@"; }

# push LAYOUT REPOSITORY:TAG [OPTION...]: to the registry of this test.
push() {
  local layout=$1 to=$2
  shift 2
  $PY "$LIB/oci.py" push "$layout" "$REGISTRY/$to" "$@"
}

# big_image NAME SEED=MIB...: an OCI layout with a layer for each SEED of MIB (compressed) of data; equal
# seeds give equal layers, also in different images.
big_image() {
  $PY - "$LIB" "$T/images/$1" "${@:2}" <<'PY'
import random, sys
sys.path.insert(0, sys.argv[1])
from oci import *
layers = []
for word in sys.argv[3:]:
    seed, _, size = word.partition("=")
    t = Tar().dir(seed).file(seed + "/bytes", random.Random(seed).randbytes(int(float(size) * (1 << 20))))
    for k in range(200):
        t.file(f"{seed}/small{k}", b"%d" % k * 50)
    layers.append(Layer(t, blob=gzipped(t.bytes(), 1)))
simple_image(sys.argv[2], layers)
PY
}

# unpacked LAYOUT DIR: what an image without whiteouts must look like, unpacked by tar.
unpacked() {
  local digest
  mkdir -p "$2"
  for digest in $($PY - "$1" <<'PY'
import glob, json, sys
index = json.load(open(sys.argv[1] + "/index.json"))
read = lambda d: json.load(open(f"{sys.argv[1]}/blobs/sha256/{d[7:]}"))
print(*[l["digest"][7:] for l in read(index["manifests"][0]["digest"])["layers"]])
PY
  ); do tar -C "$2" --numeric-owner --xattrs --xattrs-include='*' -xpzf "$1/blobs/sha256/$digest"; done
}

# storm N COMMAND...: N processes "COMMAND I" that start at the same instant; fails when one fails.
# Their output is in $T/storm/I.
storm() {
  local n=$1 i gate pids=()
  shift
  rm -rf "$T/storm" && mkdir -p "$T/storm" && mkfifo "$T/storm/gate"
  exec {gate}<>"$T/storm/gate"
  for i in $(seq "$n"); do
    (touch "$T/storm/ready.$i"; read -r _ <&"$gate"; exec {gate}<&-; "$@" "$i") >"$T/storm/$i" 2>&1 &
    pids+=($!)
  done
  wait_for 20 "[ \$(ls '$T/storm' | grep -c ready) = $n ]"
  printf '\n%.0s' $(seq "$n") >&"$gate"
  for i in $(seq "$n"); do
    wait "${pids[$((i - 1))]}" || { cat "$T/storm/$i"; fail "process $i of the storm"; }
  done
  exec {gate}<&-
}

# blobs_began N: at least N requests for blobs reached the proxy.
blobs_began() { [ "$(grep -c 'GET .*/blobs/' "$BEGAN" 2>/dev/null)" -ge "$1" ] 2>/dev/null; }

# flights EXPRESSION: over the counters `f` of all flights of the daemon, e.g. flights 'f["waiting"]'.
flights() { ifs status --json | field "sum($1 for f in j['flights'].values())"; }

# ---- registries

# start_registry NAME [htpasswd] [tls]: docker-registry with a configuration of its own. Sets REGISTRY
# to host:port and REGISTRY_LOG to its access log. User "tester", password "se cret:1" with htpasswd;
# tls makes an own CA, $T/NAME/ca.pem.
start_registry() {
  local name=$1 dir=$T/$1 auth='' tls='' word
  shift
  mkdir -p "$dir/data"
  for word in "$@"; do
    case $word in
      htpasswd)
        htpasswd -Bbn tester 'se cret:1' 2>/dev/null | grep . >"$dir/htpasswd"
        auth="auth: {htpasswd: {realm: test, path: $dir/htpasswd}}" ;;
      tls)
        make_ca "$dir"
        tls="  tls: {certificate: $dir/cert.pem, key: $dir/key.pem}" ;;
    esac
  done
  cat >"$dir/config.yml" <<YML
version: 0.1
log: {level: info, accesslog: {disabled: false}}
storage: {filesystem: {rootdirectory: $dir/data}, delete: {enabled: true}}
http:
  addr: 127.0.0.1:0
$tls
$auth
YML
  docker-registry serve "$dir/config.yml" >"$T/$name.log" 2>&1 &
  TEST_PIDS+=($!)
  REGISTRY_LOG=$T/$name.log
  wait_for 20 "grep -q 'listening on' '$REGISTRY_LOG'" || fail "the registry does not start"
  REGISTRY=$(grep -o 'listening on 127.0.0.1:[0-9]*' "$REGISTRY_LOG" | head -1 | cut -d' ' -f3)
}

make_ca() {
  local dir=$1
  {
    openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj '/CN=imagefs test CA' \
      -addext basicConstraints=critical,CA:TRUE -keyout "$dir/ca-key.pem" -out "$dir/ca.pem"
    openssl req -newkey rsa:2048 -nodes -subj '/CN=localhost' -keyout "$dir/key.pem" -out "$dir/cert.csr"
    # The last one is the host of a virtual machine (vm.sh).
    printf 'subjectAltName=DNS:localhost,IP:127.0.0.1,IP:10.0.2.2\n' >"$dir/ext"
    openssl x509 -req -in "$dir/cert.csr" -CA "$dir/ca.pem" -CAkey "$dir/ca-key.pem" -CAcreateserial \
      -days 2 -extfile "$dir/ext" -out "$dir/cert.pem"
  } >"$dir/openssl.out" 2>&1 || { cat "$dir/openssl.out" >&2; fail "openssl"; }
}

# start_proxy NAME: a recording proxy in front of $REGISTRY; sets PROXY (host:port), REQUESTS and
# BEGAN (a line "METHOD path" a request, when it arrives).
start_proxy() {
  local dir=$T/$1
  mkdir -p "$dir"
  $PY "$LIB/proxy.py" "$REGISTRY" "$dir" 2>"$T/$1.log" &
  TEST_PIDS+=($!)
  wait_for 20 "[ -e '$dir/port' ]" || fail "the proxy does not start"
  PROXY=127.0.0.1:$(cat "$dir/port") REQUESTS=$dir/requests BEGAN=$dir/began RULES=$dir/rules
}

# start_odd_registry LAYOUT: see odd_registry.py. Sets ODD_REGISTRY (host:port).
start_odd_registry() {
  mkdir -p "$T/odd"
  $PY "$LIB/odd_registry.py" "$T/odd" "$1" 2>"$T/odd.log" &
  TEST_PIDS+=($!)
  wait_for 20 "[ -e '$T/odd/port' ]" || fail "the odd registry does not start"
  ODD_REGISTRY=127.0.0.1:$(cut -d' ' -f1 "$T/odd/port")
}

# install_mount_helper: mount(8), which looks for helpers in /sbin only, finds mount.imagefs there, in a mount namespace
# that the script has for itself.
install_mount_helper() {
  sbin=$(readlink -f /sbin)
  mkdir "$T/sbin"
  mount -t tmpfs layers "$T/sbin"   # $T may lie on an overlay, which makes no upper directory
  mkdir "$T"/sbin/{upper,work}
  ln -s "$IMAGEFS" "$T/sbin/upper/mount.imagefs"
  mount -t overlay -o "lowerdir=$sbin,upperdir=$T/sbin/upper,workdir=$T/sbin/work" overlay "$sbin"
  detach_mount_helper() { umount -l "$sbin"; }
  AT_END+=(detach_mount_helper)
}

rules() { printf '%s' "$1" >"$RULES.new" && mv "$RULES.new" "$RULES"; }
requests() { $PY "$LIB/requests.py" "$1" "$REQUESTS" "${@:2}"; }

# start_shaper NAME [OPTION...]: a line with a rate, round trips and faults in front of $REGISTRY (see
# shaper.py --help). Sets SHAPED (host:port) and SHAPER (its folder, for `shape COMMAND...`).
start_shaper() {
  local dir=$T/$1
  mkdir -p "$dir"
  $PY "$LIB/shaper.py" serve "$REGISTRY" "$dir" "${@:2}" 2>"$T/$1.log" &
  TEST_PIDS+=($!)
  wait_for 20 "[ -e '$dir/ports' ]" || fail "the shaper does not start"
  SHAPER=$dir SHAPED=127.0.0.1:$(field "j['api']" <"$dir/ports")
}

shape() { $PY "$LIB/shaper.py" ctl "$SHAPER" "$@"; }

# ---- the runtimes to compare with

# own_podman: podman with a store of its own.
own_podman() {
  mkdir -p "$T/podman"
  [ -e "$T/podman/storage.conf" ] ||
    printf '[storage]\ndriver = "overlay"\ngraphroot = "%s"\nrunroot = "%s"\n' "$T/podman/graph" "$T/podman/run" >"$T/podman/storage.conf"
  CONTAINERS_STORAGE_CONF=$T/podman/storage.conf podman --cgroup-manager cgroupfs --events-backend none \
    --tmpdir "$T/podman/tmp" "$@"
}
