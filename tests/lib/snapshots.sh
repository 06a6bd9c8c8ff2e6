# SPDX-License-Identifier: Apache-2.0
# Sourced behind lib.sh and containerd.sh: a daemon as containerd meets it.

# serve [OPTION...]: runs the daemon in the foreground's place and waits until containerd can reach it.
serve() {
  "${IMAGEFS}d" --root "$ROOT" --run "$RUN" "$@" daemon >>"$T/daemon.out" 2>&1 &
  DAEMON=$!
  TEST_PIDS+=("$DAEMON")
  wait_for 20 "[ -S '$RUN/snapshotter.sock' ] && ifs status >/dev/null 2>&1" || { tail -3 "$T/daemon.out"; fail "the daemon does not start"; }
  # A containerd that met the closed socket dials again after a second only, and fails every call until then.
  [ -z "$CONTAINERD" ] || ! grep -q "$RUN/snapshotter.sock" "$CONTAINERD/config.toml" || ! own_ctr version >/dev/null 2>&1 ||
    wait_for 20 "snapshots k8s.io >/dev/null 2>&1" || fail "containerd does not reach the daemon"
}
stop_serving() {
  kill -"${1:-TERM}" "$DAEMON"
  wait_for 20 "! kill -0 $DAEMON 2>/dev/null || grep -q '^State:.Z' /proc/$DAEMON/status" || fail "the daemon does not stop"
}
daemon_says() { grep -qE "$1" "$T/daemon.out"; }

# snapshots NAMESPACE: a line each, as containerd knows them.
snapshots() { (set -o pipefail; own_ctr -n "$1" snapshots --snapshotter imagefs ls | tail -n +2); }
counter() { ifs status --json | field "j['counters']['$1']"; }

# layered_image NAME: tools of this machine at the bottom, then an empty layer, a tiny one, one of whiteouts only and a
# larger one, pushed as test/NAME:1 with these options.
layered_image() {
  $PY - "$LIB" "$T/images/$1" <<'P'
import random, sys
sys.path.insert(0, sys.argv[1])
from oci import *
out = sys.argv[2]
tools = host_tar(["sh", "cat", "ls", "sleep", "sha256sum", "touch", "rm", "mkdir", "mv", "dd", "find", "stat", "head", "id", "chown", "wc"])
big = Tar().dir("data", mode=0o750)
for k in range(300):
    big.file(f"data/{k}", random.Random(k).randbytes(4000 + 37 * k))
layers = [tools.file("gone", b"x").file("etc/motd", b"one\n"), Tar(), Tar().file("etc/motd", b"three\n"),
          Tar().whiteout("gone"), big]
simple_image(out, layers, config_extra={"config": {"Env": ["PATH=/bin:/usr/bin"]}})
P
  push "$T/images/$1" "test/$1:1" "${@:2}"
}

# layered_sum: the SHA-256 of what `cat /data/*` prints in a container of a layered_image.
layered_sum() {
  $PY -c 'import hashlib, random
h = hashlib.sha256()
for k in sorted(map(str, range(300))): h.update(random.Random(int(k)).randbytes(4000 + 37 * int(k)))
print(h.hexdigest())'
}
