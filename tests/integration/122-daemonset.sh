#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# long
# The DaemonSets of packaging/kubernetes on a node: the image of `make image`, run by containerd with the mounts, their
# propagation and the environment that the chart declares. Install; a pod of the runtime class, lazily; an upgrade while its
# container reads; removal, which gives containerd its configuration back. The node is a mount namespace of its own with
# processes of its own, everything shared as by systemd.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/containerd.sh"
. "$(dirname "$0")/../lib/lazy.sh"
need_containerd 1; need_containerd 2; need go; need umoci; need busybox
K8S=$LIB/kubernetes.py
export HANDLER=

# ---- images: of the project, of a pod
"$SOURCE/scripts/image.sh" "$T/image" >"$T/image.out" 2>&1 || { tail -n 5 "$T/image.out"; fail "scripts/image.sh"; }
first=$(field 'j["manifests"][0]["digest"]' <"$T/image/index.json")
"$SOURCE/scripts/image.sh" "$T/again" >"$T/image.out" 2>&1
same "the image made again" "$first" "$(field 'j["manifests"][0]["digest"]' <"$T/again/index.json")"
start_registry registry
start_shaper line
push "$T/image" kit/imagefs:1 >/dev/null
pause_image
. "$LIB/snapshots.sh"
layered_image app
publish app
ref=$SHAPED/test/app:1

# ---- the node
CONTAINERD=$T/node/containerd
mkdir -p "$CONTAINERD/bin" "$T"/node/{run,lib,etc,logs} "$T/hosts"
for program in containerd ctr containerd-shim-runc-v2; do ln -s "$PEER_CONTAINERD/usr/bin/$program" "$CONTAINERD/bin/$program"; done
containerd_config 2 overlayfs | sed '/unpack_config/,/differ/d' >"$T/node/etc/config.toml"
cp "$T/node/etc/config.toml" "$T/config.before"
plain_host "$SHAPED"; plain_host "$REGISTRY"
cat >"$T/node/init" <<SH
set -eu
mount --make-rshared /
mount --bind "$T/node/run" /run
mount --bind "$T/node/lib" /var/lib
containerd() { PATH=$CONTAINERD/bin:\$PATH setsid "$CONTAINERD/bin/containerd" -c "$T/node/etc/config.toml" >>"$CONTAINERD.log" 2>&1 </dev/null & pid=\$!; }
containerd
trap 'exit 0' TERM
while :; do
  if [ -e "$T/node/restart" ]; then
    kill "\$pid"; wait "\$pid" || true
    containerd
    rm "$T/node/restart"
    echo restarted >>"$T/node/restarts"
  fi
  sleep 0.1
done
SH
: >"$T/node/restarts"
unshare --mount --pid --fork --mount-proc --propagation private bash "$T/node/init" >"$T/node/out" 2>&1 &
TEST_PIDS+=($!)
wait_for 20 "NODE=\$(children $! | xargs) && [ -n \"\$NODE\" ] && own_ctr version >/dev/null 2>&1" || { cat "$T/node/out"; fail "the node does not start"; }
end_node() { slay "$NODE"; }
AT_END+=(end_node)
node() { nsenter -t "$NODE" -m -p -- "$@"; }
up() { wait_for 30 "own_ctr version >/dev/null 2>&1 && cri version >/dev/null 2>&1" || fail "containerd is not up"; }
up

# ---- what the cluster is told
chart() {
  $PY "$K8S" render --set image.repository=registry.invalid/imagefs "containerd.configDir=$T/node/etc" "containerd.hostsDir=$T/node/hosts" \
    "containerd.root=$CONTAINERD/root" "containerd.check=$PEER_CONTAINERD/usr/bin/containerd --config $T/node/etc/config.toml config dump" \
    "containerd.restart=\"touch $T/node/restart; while [ -e $T/node/restart ]; do sleep 0.1; done\"" \
    'config="[fill]\nbackground = false\n[containerd]\nlazy = \"repository\"\n"' "$@"
}
chart >"$T/kit.yaml"
chart remove=true >"$T/remove.yaml"
$PY "$K8S" check "$T/kit.yaml" "$T/remove.yaml" 2>&1 | grep -v twice || true

# as_declared FILE DAEMONSET CONTAINER ID [OPTION...]: runs a container of it, as the kubelet and containerd would.
as_declared() {
  local file=$1 name=$2 which=$3 id=$4 line options=()
  mkdir -p "$T"/node/run/imagefs/{chains,mapped} "$T/node/lib/imagefs" "$T/node/hosts"   # DirectoryOrCreate
  while read -r line; do options+=(--mount "$line"); done < <($PY "$K8S" mounts "$file" "$name" "$which" "$T/node/maps")
  while read -r line; do options+=(--env "$line"); done < <($PY "$K8S" env "$file" "$name" "$which")
  # A container without privileges has no Bidirectional volume, and drops all of its capabilities.
  case $name in
    imagefs-holder)
      options+=(--read-only --rootfs-propagation rslave)
      for word in CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE; do
        options+=(--cap-drop "CAP_$word")
      done ;;
    *) options+=(--privileged --rootfs-propagation rshared --with-ns pid:/proc/1/ns/pid) ;;
  esac
  local words=()
  while read -r line; do words+=("$line"); done < <($PY "$K8S" command "$file" "$name" "$which")
  [ "$name" = imagefs-holder ] || words=(/usr/bin/imagefs-node "${words[@]}")
  node "$CONTAINERD/bin/ctr" -a "$CONTAINERD/sock" -n kit run --net-host "${options[@]}" "${@:5}" "$REGISTRY/kit/imagefs:1" "$id" "${words[@]}"
}
# once FILE DAEMONSET CONTAINER ID: until it has ended; its status. A containerd that is restarted at that moment forgets
# the status: as the kubelet does, the container is run again.
once() {
  local status=0
  as_declared "$@" -d --log-uri "file://$T/$4.out" >"$T/ctr.out" 2>&1 || { cat "$T/ctr.out"; return 1; }
  wait_for 40 "own_ctr -n kit task ls >'$T/tasks' 2>&1 && ! grep -q '^$4 .*RUNNING' '$T/tasks'" || fail "$4 does not end: $(cat "$T/$4.out")"
  if grep -q "^$4 " "$T/tasks"; then
    own_ctr -n kit task delete "$4" >"$T/ctr.out" 2>&1 || status=1
    ! grep -q 'non-zero exit code' "$T/ctr.out" || status=1
    own_ctr -n kit container delete "$4"
  else
    up
    own_ctr -n kit container delete "$4"
    once "$@" || status=1
  fi
  return $status
}
# On the node, where containerd opens the pipes.
exec_kit() { node timeout 30 "$CONTAINERD/bin/ctr" -a "$CONTAINERD/sock" -n kit task exec --exec-id "x$RANDOM" "$@"; }
ifs() { exec_kit "$DAEMON_ID" imagefs "$@"; }
gone() {  # gone ID [SIGNAL]: its container has ended, and is deleted
  own_ctr -n kit task kill -s "${2:-SIGTERM}" "$1" 2>/dev/null || true
  wait_for 30 "own_ctr -n kit task delete $1 >/dev/null 2>&1 || ! own_ctr -n kit task ls -q | grep -qx $1" || fail "$1 does not end"
  own_ctr -n kit container delete "$1"
}
daemon_pod() { DAEMON_ID=$1; as_declared "$T/kit.yaml" imagefs imagefsd "$1" -d --log-uri "file://$T/$1.out" >"$T/ctr.out" 2>&1 || { cat "$T/ctr.out"; fail "$1"; }; }
ready() { wait_for 30 "ifs status >'$T/status' 2>&1" || { cat "$T/status" "$T"/imagefsd*.out; fail "$DAEMON_ID is not ready"; }; }
own_ctr -n kit image pull --plain-http "$REGISTRY/kit/imagefs:1" >/dev/null 2>&1 || fail "the image of the project cannot be pulled"

# ---- installed
as_declared "$T/kit.yaml" imagefs-holder holder holder -d
wait_for 20 "[ -S '$T/node/run/imagefs/holder.sock' ]" || fail "no holder"
once "$T/kit.yaml" imagefs install install || { cat "$T/install.out"; fail "install"; }
same "restarts of containerd" 1 "$(wc -l <"$T/node/restarts")"
up
[ -e "$T/node/etc/conf.d/imagefs.toml" ] || fail "no drop-in"
same "the link for 1.6" /var/lib/imagefs "$(readlink "$CONTAINERD/root/io.containerd.snapshotter.v1.imagefs")"
daemon_pod imagefsd1; ready
same "warnings" "[]" "$(ifs status --json | field 'j["warnings"]')"

# A pod without the class is as ever; one with it is lazy.
exec_in() { cri exec-sync "$1" sh -c "$2" | field 'j["stdout"].rstrip()'; }
unpacked() { ifs status --json | field 'j["counters"]["snapshot_layers_unpacked"]'; }
cri pull "$PAUSE" >/dev/null
HANDLER=imagefs
cri pull --handler imagefs "$ref" >"$T/pulled" || fail "$(cat "$T/pulled")"
cri pull --handler imagefs "$PAUSE" >"$T/pulled" || fail "$(cat "$T/pulled")"
same "layers unpacked" 0 "$(unpacked)"
shape set rate=400kB >/dev/null
pod=$(pod lazy)
id=$(container "$pod" lazy main "$ref" sh -c \
  'while [ ! -e /stop ]; do cat /data/* | sha256sum >>/sums || echo failed >>/sums; sleep 0.1; done; sleep 1000' 2>&1)
same "a file of it" three "$(exec_in "$id" 'cat /etc/motd')"
same "its layers" filling "$(ifs status --json | field '" ".join(sorted({l["state"] for l in j["layers"] if l["data_bytes"] > 1 << 20}))')"

# ---- upgrades, while it reads: the pod of the daemon is another one, that of the holder stays
for turn in 2 3; do
  sleep 1
  gone "$DAEMON_ID" "$([ $turn = 2 ] && echo SIGTERM || echo SIGKILL)"
  once "$T/kit.yaml" imagefs install install || { cat "$T/install.out"; fail "install again"; }
  daemon_pod imagefsd$turn; ready
done
same "restarts of containerd" 1 "$(wc -l <"$T/node/restarts")"
shape set rate=0 >/dev/null
wait_for 60 'exec_in "$id" "cat /sums 2>/dev/null" | grep -q .' || fail "it read nothing"
node sh -c 'echo 1 >/proc/sys/vm/drop_caches'
same "what is started in it afterwards" three "$(exec_in "$id" 'cat /etc/motd')"
exec_in "$id" 'touch /stop' >/dev/null
same "what it read" "$($PY -c 'import hashlib, random
h = hashlib.sha256()
for k in sorted(map(str, range(300))): h.update(random.Random(int(k)).randbytes(4000 + 37 * int(k)))
print(h.hexdigest())')" "$(exec_in "$id" 'cat /sums' | cut -d" " -f1 | sort -u)"
another=$(container "$pod" lazy another "$ref" sleep 1000)
same "a container of the next daemon" three "$(exec_in "$another" 'cat /etc/motd')"

# ---- removed: not under a running pod, then with all that was installed
gone "$DAEMON_ID"
sed "s/remove, --stay/remove/" "$T/remove.yaml" >"$T/once.yaml"
! once "$T/once.yaml" imagefs-remove remove remove || fail "removed under a running pod"
grep -q 'containers use its mounts: drain the node first' "$T/remove.out" || { cat "$T/remove.out"; fail "it does not say why not"; }
[ -e "$T/node/etc/conf.d/imagefs.toml" ] || fail "the drop-in is gone nevertheless"
daemon_pod imagefsd4; ready
for container in "$id" "$another"; do cri stop "$container" >/dev/null; cri rm "$container" >/dev/null; done
remove_pod "$pod"
HANDLER=
for image in "$ref" "$PAUSE"; do cri rmi "$image" >/dev/null; done
wait_for 30 '[ "$(ifs status --json | field "j[\"counters\"][\"snapshots\"]")" = 0 ]' || fail "snapshots stay"
gone "$DAEMON_ID"; gone holder
as_declared "$T/remove.yaml" imagefs-remove remove remove -d --log-uri "file://$T/remove.out" >"$T/ctr.out" 2>&1 || { cat "$T/remove.out"; fail "remove"; }
wait_for 60 "exec_kit remove cat /tmp/removed >/dev/null 2>&1" || { cat "$T/remove.out"; fail "the pod of the removal is not ready"; }
diff "$T/config.before" "$T/node/etc/config.toml" || fail "containerd's configuration is not what it was"
same "drop-ins" "" "$(ls "$T/node/etc/conf.d" 2>/dev/null || true)"
same "restarts of containerd" 2 "$(wc -l <"$T/node/restarts")"
up
same "mounts" "" "$(node sh -c "cut -d' ' -f5 /proc/self/mountinfo | grep /run/imagefs/" || true)"
[ ! -L "$CONTAINERD/root/io.containerd.snapshotter.v1.imagefs" ] || fail "the link is left"
cri pull "$PAUSE" >/dev/null
pod=$(pod ordinary)
remove_pod "$pod"
gone remove
