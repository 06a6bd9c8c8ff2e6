# SPDX-License-Identifier: Apache-2.0
# Sourced behind lib.sh: containerd with the container runtime interface on, in versions 1.6 (Debian 12) and 2.x
# (unpacked from sid), over its overlayfs or over the snapshotter of this test's daemon.
PEER_CONTAINERD=$SOURCE/build/peers/containerd
CONTAINERD=                          # the folder of the instance that the helpers below talk to
AT_END+=(end_containerds)

# need_containerd 1|2: what start_containerd of that version needs; skips where it cannot be had.
need_containerd() {
  need_root; need containerd; need ctr; need runc; need protoc; need grpc_python_plugin
  [ "$1" = 1 ] && return 0
  timeout 300 "$SOURCE/scripts/unpack.sh" sid "$PEER_CONTAINERD" containerd >"$T/unpack.out" 2>&1 ||
    { tail -3 "$T/unpack.out"; rm -rf "$PEER_CONTAINERD"; skip "containerd 2 could not be had from the Debian mirror"; }
  "$PEER_CONTAINERD/usr/bin/containerd" --version >/dev/null 2>&1 || skip "the newer containerd does not run here"
}

# start_containerd [NAME [VERSION [SNAPSHOTTER]]]: an own instance under $T/NAME (default containerd, 1, overlayfs);
# NAME becomes the one that `cri` and `own_ctr` talk to. SNAPSHOTTER imagefs is the proxy plugin at
# $RUN/snapshotter.sock. With $PAUSE set that is the pause image.
start_containerd() {
  local name=${1:-containerd} version=${2:-1} snapshotter=${3:-overlayfs} program
  CONTAINERD=$T/$name
  mkdir -p "$CONTAINERD/bin"
  for program in containerd ctr containerd-shim-runc-v2; do
    # runc stays the machine's: the newer one asks for a newer C library.
    if [ "$version" = 1 ]; then ln -sf "$(command -v $program)" "$CONTAINERD/bin/$program"
    else ln -sf "$PEER_CONTAINERD/usr/bin/$program" "$CONTAINERD/bin/$program"; fi
  done
  containerd_config "$version" "$snapshotter" >"$CONTAINERD/config.toml"
  resume_containerd
}

containerd_config() {  # VERSION SNAPSHOTTER
  local cri=io.containerd.grpc.v1.cri
  cat <<TOML
version = $([ "$1" = 1 ] && echo 2 || echo 3)
root = "$CONTAINERD/root"
state = "$CONTAINERD/state"
[grpc]
  address = "$CONTAINERD/sock"
[ttrpc]
  address = "$CONTAINERD/ttrpc"
[plugins."io.containerd.internal.v1.opt"]
  path = "$CONTAINERD/opt"
TOML
  if [ "$1" = 1 ]; then
    cat <<TOML
[plugins."$cri"]
  disable_tcp_service = true
  restrict_oom_score_adj = true
  sandbox_image = "${PAUSE:-none.invalid/pause:1}"
[plugins."$cri".containerd]
  snapshotter = "$2"
  disable_snapshot_annotations = false
  discard_unpacked_layers = false
[plugins."$cri".registry]
  config_path = "$T/hosts"
[plugins."$cri".cni]
  bin_dir = "$CONTAINERD/cni/bin"
  conf_dir = "$CONTAINERD/cni/conf"
TOML
  else
    cat <<TOML
[plugins."$cri"]
  disable_tcp_service = true
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "$2"
[plugins."io.containerd.cri.v1.images".registry]
  config_path = "$T/hosts"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "${PAUSE:-none.invalid/pause:1}"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = ["$CONTAINERD/cni/bin"]
  conf_dir = "$CONTAINERD/cni/conf"
[plugins."io.containerd.nri.v1.nri"]
  disable = true
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
  platform = "linux"
  snapshotter = "$2"
  differ = "walking"
TOML
  fi
  [ "$2" != imagefs ] || cat <<TOML
[proxy_plugins.imagefs]
  type = "snapshot"
  address = "$RUN/snapshotter.sock"
  capabilities = ["remap-ids"]
  [proxy_plugins.imagefs.exports]
    root = "$ROOT"
    enable_remote_snapshot_annotations = "true"
TOML
}

# plain_host HOST:PORT: to be spoken to by http. A registry says so itself when it is asked by https; a proxy of these
# tests does not, and containerd 2 tries https first.
plain_host() {
  mkdir -p "$T/hosts/$1"
  printf 'server = "http://%s"\n' "$1" >"$T/hosts/$1/hosts.toml"
}

# use_containerd NAME: one started before.
use_containerd() { CONTAINERD=$T/$1; }

# Starts the instance again with the configuration that it has; its containers lived on.
resume_containerd() {
  PATH=$CONTAINERD/bin:$PATH containerd -c "$CONTAINERD/config.toml" >>"$CONTAINERD.log" 2>&1 &
  echo $! >"$CONTAINERD/pid"
  TEST_PIDS+=($!)
  wait_for 20 "own_ctr version >/dev/null 2>&1 && cri version >/dev/null 2>&1" || fail "containerd does not start"
}
# Ends the instance; with kill -9 for `kill_containerd`.
stop_containerd() {
  kill -TERM "$(cat "$CONTAINERD/pid")"
  wait_for 20 "! kill -0 $(cat "$CONTAINERD/pid") 2>/dev/null" || fail "containerd does not stop"
}
kill_containerd() { slay "$(cat "$CONTAINERD/pid")"; }

own_ctr() { "$CONTAINERD/bin/ctr" -a "$CONTAINERD/sock" "$@"; }
cri() { timeout -k 5 300 "$PY" "$LIB/cri.py" --socket "${CRI_SOCKET:-$CONTAINERD/sock}" --stubs "$T/cri-stubs" "$@"; }
containerd_log() { cat "$CONTAINERD.log"; }

# The end, also of a failed test: shims and what runs below them outlive containerd. Nothing else has the
# socket's path in its arguments.
end_containerds() {
  local sock shim pids=()
  for sock in "$T"/*/sock; do
    for shim in $(processes); do
      tr '\0' ' ' <"/proc/$shim/cmdline" 2>/dev/null | grep -q "shim.* $sock " && pids+=($(children "$shim") "$shim")
    done
  done
  [ ${#pids[@]} = 0 ] || slay "${pids[@]}"
}
children() { cat /proc/"$1"/task/*/children 2>/dev/null; }

# pause_image [OPTION...]: makes and pushes (with these options of push) $PAUSE, to be called between start_registry and start_containerd.
pause_image() {
  mkdir -p "$T/pause"
  cat >"$T/pause/pause.c" <<'C'
#include <signal.h>
#include <unistd.h>
static void end(int signal) { (void)signal; _exit(0); }
int main(void) {
  signal(SIGTERM, end);
  signal(SIGINT, end);
  for (;;) pause();
}
C
  gcc -static -O -o "$T/pause/pause" "$T/pause/pause.c"
  $PY - "$LIB" "$T/images/pause" "$T/pause/pause" <<'P'
import sys
sys.path.insert(0, sys.argv[1])
from oci import *
simple_image(sys.argv[2], [Tar().file("pause", open(sys.argv[3], "rb").read(), mode=0o755)],
             config_extra={"config": {"Entrypoint": ["/pause"]}})
P
  push "$T/images/pause" "test/pause:1" "$@"
  PAUSE=$REGISTRY/test/pause:1
}

# tool_image NAME: an image of this machine's shell and small programs with their libraries, pushed as test/NAME:1.
tool_image() {
  $PY "$LIB/oci.py" host-image "$T/images/$1" sh cat ls sleep sha256sum touch rm mkdir mv dd find stat head
  push "$T/images/$1" "test/$1:1"
}

# With HANDLER set, as the kubelet does it for a pod of that runtime class.
# pod NAME, container POD_ID POD_NAME NAME IMAGE [COMMAND...]: made (and the latter started); print the id.
pod() { cri run-pod "$1" --logs "$CONTAINERD/logs" --handler "${HANDLER:-}" | field 'j["pod"]'; }
container() {
  local pod=$1 pod_name=$2 name=$3 image=$4 id
  shift 4
  id=$(cri create --logs "$CONTAINERD/logs" --handler "${HANDLER:-}" ${IMAGE_VOLUME:+--image-volume "$IMAGE_VOLUME"} \
    ${USER_IMAGE:+--user-image "$USER_IMAGE"} "$pod" "$pod_name" "$name" "$image" "$@" | field 'j["container"]')
  cri start "$id" >/dev/null
  echo "$id"
}
remove_pod() { cri stop-pod "$1" >/dev/null && cri rm-pod "$1" >/dev/null; }

PEER_DOCKER=$SOURCE/build/peers/docker
need_docker() {
  timeout 400 "$SOURCE/scripts/unpack.sh" sid "$PEER_DOCKER" docker.io docker-cli >"$T/unpack.out" 2>&1 ||
    { tail -3 "$T/unpack.out"; rm -rf "$PEER_DOCKER"; skip "docker could not be had from the Debian mirror"; }
  "$PEER_DOCKER/usr/sbin/dockerd" --version >/dev/null 2>&1 || skip "the newer docker does not run here"
}

# start_docker [HOST:PORT]: dockerd on the containerd that was started last, with its image store and snapshotter imagefs;
# the host is spoken to by http.
start_docker() {
  DOCKER_SOCKET=$T/docker/sock
  mkdir -p "$T/docker"
  printf '{"features": {"containerd-snapshotter": true}, "storage-driver": "imagefs", "insecure-registries": ["%s"]}' \
    "${1:-none.invalid}" >"$T/docker/daemon.json"
  PATH=$CONTAINERD/bin:$PATH "$PEER_DOCKER/usr/sbin/dockerd" --config-file "$T/docker/daemon.json" --containerd "$CONTAINERD/sock" \
    --host "unix://$DOCKER_SOCKET" --data-root "$T/docker/root" --exec-root "$T/docker/run" --pidfile "$T/docker/pid" \
    --bridge none --userland-proxy=false --iptables=false --ip6tables=false --exec-opt native.cgroupdriver=cgroupfs >"$T/docker/log" 2>&1 &
  TEST_PIDS+=($!)
  wait_for 30 "own_docker version >/dev/null 2>&1" || { tail -3 "$T/docker/log"; fail "dockerd does not start"; }
}
own_docker() { timeout -k 5 120 "$PEER_DOCKER/usr/bin/docker" --host "unix://$DOCKER_SOCKET" "$@"; }
