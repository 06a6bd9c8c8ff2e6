# SPDX-License-Identifier: Apache-2.0
# Sourced behind lib.sh and containerd.sh by the tests of tests/fleet: peers that nodes run, the real programs, two nodes
# in a network of this test.
SPEGEL_MODULE=github.com/spegel-org/spegel@v0.7.4
DFDAEMON_CRATE=dragonfly-client@1.5.10

# own_network ADDRESS...: the script starts again with a network of its own, which has these addresses and leads nowhere.
# Spegel finds no peers at addresses of loopback, and expects the same port of each.
own_network() {
  local status=0 address
  need_root; need ip
  if [ -z "${IMAGEFS_TEST_NETWORK:-}" ]; then
    IMAGEFS_TEST_NETWORK=1 unshare -n "$0" || status=$?
    exit $status
  fi
  ip link set lo up
  for address in "$@"; do ip address add "$address/32" dev lo; done
}

# need_spegel: sets SPEGEL, the program; a SPEGEL of the environment is taken as it is. To be called before own_network.
need_spegel() {
  local go=$SOURCE/build/peers/go bin=$SOURCE/build/peers/spegel
  if [ -z "${SPEGEL:-}" ]; then
    SPEGEL=$bin/spegel
    [ -x "$SPEGEL" ] || {
      timeout 600 "$SOURCE/scripts/unpack.sh" sid "$go" golang-go >"$T/spegel.out" 2>&1 ||
        { tail -3 "$T/spegel.out"; rm -rf "$go"; skip "Go could not be had from the Debian mirror"; }
      GOROOT=$(echo "$go"/usr/lib/go-*) GOBIN=$bin GOTOOLCHAIN=local GOFLAGS='' CGO_ENABLED=0 nice -n 10 timeout 1200 \
        "$(echo "$go"/usr/lib/go-*/bin/go)" install $SPEGEL_MODULE >"$T/spegel.out" 2>&1 ||
        { tail -1 "$T/spegel.out"; skip "$SPEGEL_MODULE could not be had or built; SPEGEL=program takes one that is here"; }
    }
  fi
  "$SPEGEL" version >"$T/spegel.out" 2>&1 || skip "$SPEGEL does not run"
  export SPEGEL
}

# need_dfdaemon: the same for DFDAEMON, the daemon of Dragonfly's client. It takes long to build.
need_dfdaemon() {
  local crates=$SOURCE/build/peers/dragonfly
  if [ -z "${DFDAEMON:-}" ]; then
    DFDAEMON=$crates/bin/dfdaemon
    [ -x "$DFDAEMON" ] || {
      command -v cargo >/dev/null || skip "cargo is not installed"
      CARGO_PROFILE_DEV_DEBUG=0 CARGO_TARGET_DIR=$crates/target nice -n 10 timeout 5400 \
        cargo install --debug --locked --bin dfdaemon --root "$crates" $DFDAEMON_CRATE >"$T/dfdaemon.out" 2>&1 ||
        { tail -1 "$T/dfdaemon.out"; skip "$DFDAEMON_CRATE could not be had or built; DFDAEMON=program takes one that is here"; }
      rm -rf "$crates/target"
    }
  fi
  "$DFDAEMON" --version >"$T/dfdaemon.out" 2>&1 || skip "$DFDAEMON does not run"
  export DFDAEMON
}

# start_spegel ADDRESS PEER: Spegel beside the containerd that was started last, at ADDRESS:5000; it finds the others by
# PEER, an address. Its requests are in $T/spegel-ADDRESS.log.
start_spegel() {
  "$SPEGEL" --log-level DEBUG registry --containerd-sock "$CONTAINERD/sock" --registry-addr "$1:5000" --router-addr "$1:5001" \
    --metrics-addr "$1:9090" --containerd-content-path "$CONTAINERD/root/io.containerd.content.v1.content" \
    --data-dir "$T/spegel-$1" --bootstrap-kind http --http-bootstrap-addr "$1:5002" --http-bootstrap-peer "http://$2:5002" \
    2>"$T/spegel-$1.log" &
  SPEGEL_PID=$!
  TEST_PIDS+=($SPEGEL_PID)
}

# start_dfdaemon: Dragonfly's client, which finds no other; sets DFPROXY (host:port of its mirror) and DFDAEMON_PID.
start_dfdaemon() {
  local dir=$T/dragonfly
  mkdir -p "$dir"
  $PY "$LIB/no_scheduler.py" "$dir" 2>"$T/scheduler.log" &
  TEST_PIDS+=($!)
  wait_for 20 "[ -e '$dir/port' ]" || fail "the scheduler does not start: $(cat "$T/scheduler.log")"
  DFPROXY=127.0.0.1:$(free_port)
  printf 'scheduler:\n  addrs: ["127.0.0.1:%s"]\n' "$(cat "$dir/port")" >"$dir/dynconfig.yaml"
  cat >"$dir/dfdaemon.yaml" <<YAML
host: {ip: 127.0.0.1, hostname: node}
server: {pluginDir: $dir/plugins, cacheDir: $dir/cache}
download: {server: {socketPath: $dir/sock}}
upload: {server: {ip: 127.0.0.1, port: $(free_port)}}
storage: {dir: $dir/storage, server: {ip: 127.0.0.1, tcpPort: $(free_port), quicPort: $(free_port)}}
proxy:
  server: {ip: 127.0.0.1, port: ${DFPROXY#*:}}
  rules: [{regex: "blobs/sha256.*"}]
  prefetch: false
health: {server: {ip: 127.0.0.1, port: $(free_port)}}
metrics: {server: {ip: 127.0.0.1, port: $(free_port)}}
stats: {server: {ip: 127.0.0.1, port: $(free_port)}}
YAML
  "$DFDAEMON" --config "$dir/dfdaemon.yaml" --dynconfig "$dir/dynconfig.yaml" --log-dir "$dir/log" --console >"$T/dfdaemon.log" 2>&1 &
  DFDAEMON_PID=$!
  TEST_PIDS+=($DFDAEMON_PID)
  wait_for 30 "(exec 3<>/dev/tcp/${DFPROXY/:/\/}) 2>/dev/null" || fail "dfdaemon does not start: $(tail -3 "$T/dfdaemon.log")"
}

# http_status URL [HEADER...]: of an answer.
http_status() { $PY -c 'import sys, urllib.error, urllib.request as r
try: print(r.urlopen(r.Request(sys.argv[1], headers=dict(h.split(": ") for h in sys.argv[2:]))).status)
except urllib.error.HTTPError as e: print(e.code)
except OSError: print(0)' "$@"; }
