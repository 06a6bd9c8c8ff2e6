#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What goes wrong between containerd and the daemon: a registry that answers containerd and not us, a layer that reaches us
# with a wrong bit, a pull that is given up, pulls and removals that race, two daemons' worth of pulls at once.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/containerd.sh"
. "$(dirname "$0")/../lib/snapshots.sh"
need_containerd 1; need_containerd 2
start_registry registry
start_proxy line
plain_host "$PROXY"
pause_image
layered_image app
ref=$PROXY/test/app:1
pull() { own_ctr -n test image pull --hosts-dir "$T/hosts" --snapshotter imagefs "$@" "$ref" >"$T/pull.out" 2>&1; }
show() { own_ctr -n test run --rm --snapshotter imagefs "$ref" "c$RANDOM" sh -c 'cat /etc/motd; find /data -type f | wc -l' 2>&1 | tr '\n' ' '; }
forget() { own_ctr -n test image rm --sync "$ref" >/dev/null; }
# What a failed pull has brought waits for whoever tries again; all else goes.
no_snapshots() {
  wait_for 30 '[ "$(counter snapshots)" = 0 ] && [ -z "$(ls "$ROOT/snapshots")" ]' || fail "snapshots stay: $(snapshots test)"
}
gone() {
  wait_for 30 '[ "$(counter snapshots)" = 0 ]' || fail "snapshots stay: $(for n in test ns0 ns1 ns2; do echo "$n: $(snapshots $n)"; own_ctr -n $n container ls; own_ctr -n $n image ls; done)"
  wait_for 30 '[ -z "$(ls "$ROOT/layers" "$ROOT/chains" "$ROOT/snapshots" | grep -v :)" ]' || fail "files stay: $(ls "$ROOT"/*)"
}
serve
start_containerd two 2 imagefs

# The registry is down for us, not for containerd: ordinary snapshots, once per pull the full patience, never an error.
rules '[{"agent": "imagefs", "status": 503, "body": "no"}]'
: >"$REQUESTS"
pull || { cat "$T/pull.out"; fail "pull while the registry is down for the daemon"; }
same "unpacked" "0 5" "$(counter snapshot_layers_lazy) $(counter snapshot_layers_unpacked)"
same "our questions" true "$($PY -c "print('true' if 1 <= $(requests count '/manifests/') <= 12 else $(requests count '/manifests/'))")"
same "container" "three 300 " "$(show)"
rules '[]'
forget; gone
stop_serving; serve  # and forgets what failed

# It takes our connections and says nothing: asked once, and not for each of the layers.
rules '[{"agent": "imagefs", "path": "/manifests/", "delay": 60}]'
: >"$BEGAN"
pull || { cat "$T/pull.out"; fail "pull while the registry is silent for the daemon"; }
same "unpacked for a silent registry" "5 5" "$(counter snapshot_layers_unpacked) $(counter snapshot_layers_unpacked_registry)"
daemon_says 'snapshot.not_lazy .*has said nothing for 3s' || fail "the log does not say why"
rules '[]'
forget; no_snapshots
stop_serving; serve

# A bit turns in a layer on its way to us. It is fetched again; if it is wrong again, containerd has to do it.
big=$($PY -c 'import glob, os, sys
print(os.path.basename(max(glob.glob(sys.argv[1] + "/blobs/sha256/*"), key=os.path.getsize)))' "$T/images/app")
rules '[{"agent": "imagefs", "path": "blobs/sha256:'"$big"'", "corrupt": 1000}]'
wait_for 20 'snapshots test >/dev/null 2>&1'
pull || { cat "$T/pull.out"; fail "pull with a wrong layer"; }
same "unpacked" 5 "$(counter snapshot_layers_unpacked)"
same "container" "three 300 " "$(show)"
daemon_says 'snapshot.not_lazy .*'"${big:0:12}" || fail "the log does not name the layer"
rules '[]'
forget; no_snapshots
stop_serving; serve
wait_for 20 'snapshots test >/dev/null 2>&1'

# A pull that is given up while the daemon fetches: nothing goes on, nothing is left, and the next one works.
rules '[{"agent": "imagefs", "path": "blobs/sha256:'"$big"'", "hold": "'"$T/never"'", "cut_hold": 100000}]'
: >"$BEGAN"
cri pull --deadline 300 "$ref" >"$T/pull.out" 2>&1 &
puller=$!
wait_for 20 "grep -q 'blobs/sha256:$big' '$BEGAN'" || fail "the pull does not begin"
# (ctr 2 itself would not do: containerd goes on with what it asked for.)
slay $(pgrep -f "cri.py .*$T/")
wait $puller && fail "a killed pull succeeds"
wait_for 20 '[ "$(flights "f[\"waiting\"]")" = 0 ]' || fail "somebody waits: $(ifs status --json)"
no_snapshots
rules '[]'; touch "$T/never"
pull || { cat "$T/pull.out"; fail "pull after one that was given up"; }
same "lazy" 5 "$(counter snapshot_layers_lazy)"
same "container" "three 300 " "$(show)"
forget; gone

# Pulls, containers and removals in three namespaces at once, while containerd collects: each container sees its image.
one_of_many() {
  local i n=ns$(($1 % 3))
  for i in 1 2 3 4; do
    own_ctr -n $n image pull --hosts-dir "$T/hosts" --snapshotter imagefs "$ref" >/dev/null 2>"$T/storm/err.$1.$i" || { cat "$T/storm/err.$1.$i"; return 1; }
    # Somebody else of this namespace may remove the image in between, so a container may find none.
    own_ctr -n $n run --rm --snapshotter imagefs "$ref" "c$1-$i-$$" cat /etc/motd >"$T/storm/out.$1.$i" 2>&1 || grep -qE 'not found|does not exist' "$T/storm/out.$1.$i" || { cat "$T/storm/out.$1.$i"; return 1; }
    [ $((i % 2)) = 0 ] && own_ctr -n $n image rm --sync "$ref" >/dev/null 2>&1
  done
  return 0
}
storm 6 one_of_many
grep -lx three "$T"/storm/out.* >"$T/good" || fail "no container ran"
wrong=$(grep -LE '^three$|not found|does not exist' "$T"/storm/out.*) || true
[ -z "$wrong" ] || { tail -n +1 $wrong; fail "wrong contents"; }
for n in 0 1 2; do own_ctr -n ns$n image rm --sync "$ref" >/dev/null 2>&1 || true; done
gone
same "mounts" "" "$(mounts_below "$RUN")"
wait_for 30 '[ "$(flights "f[\"waiting\"]")" = 0 ]' || fail "somebody waits: $(ifs status --json)"  # span tables are made once it is quiet
