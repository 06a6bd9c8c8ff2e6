# SPDX-License-Identifier: Apache-2.0
# Sourced behind lib.sh and containerd.sh by the tests of tests/fleet: peers that nodes run, the real programs, two nodes
# in a network of this test.
SPEGEL_MODULE=github.com/spegel-org/spegel@v0.7.4

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
# http_status URL: of an answer.
http_status() { $PY -c 'import sys, urllib.error, urllib.request as r
try: print(r.urlopen(r.Request(sys.argv[1], headers=dict(h.split(": ") for h in sys.argv[2:]))).status)
except urllib.error.HTTPError as e: print(e.code)
except OSError: print(0)' "$@"; }
