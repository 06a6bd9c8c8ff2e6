# SPDX-License-Identifier: Apache-2.0
# Sourced behind lib.sh, containerd.sh and podman.sh: CRI-O over the image store or the layer store that the daemon makes.
AT_END+=(end_crio)

# need_crio: sets CRIO, the program, and PINNS, its helper, which stands beside it or in PATH. Neither is in Debian, and
# nothing here builds them.
need_crio() {
  need_root; need_fuse; need runc; need conmon; need protoc; need grpc_python_plugin
  CRIO=${CRIO:-$(command -v crio || true)}
  [ -n "$CRIO" ] || skip "CRI-O is not installed; CRIO=program takes one that is here"
  "$CRIO" --version >"$T/crio.out" 2>&1 || skip "$CRIO does not run"
  PINNS=${PINNS:-$(PATH=$(dirname "$CRIO"):$PATH command -v pinns || true)}
  [ -n "$PINNS" ] || skip "pinns, which belongs to CRI-O, is neither beside it nor in PATH"
  CRIO_VERSION=$(sed -nE 's/^crio version ([0-9.]+).*/\1/p' "$T/crio.out")
}
crio_since() { [ "$(printf '%s\n' "$1" "$CRIO_VERSION" | sort -V | head -1)" = "$1" ]; }

# start_crio NAME OPTION: an own instance under $T/NAME, whose storage.conf has that line of [storage.options]; NAME becomes
# the one that `cri`, `pod` and `container` (containerd.sh) talk to. It speaks http to $REGISTRY; $PAUSE is its pause image.
# internal_repair, on by default since 1.31, is off: see docs/podman.md.
start_crio() {
  CONTAINERD=$T/$1
  mkdir -p "$CONTAINERD/none"
  printf '[storage]\ndriver = "overlay"\ngraphroot = "%s"\nrunroot = "%s"\n[storage.options]\n%s\n' \
    "$CONTAINERD/graph" "$CONTAINERD/run" "$2" >"$CONTAINERD/storage.conf"
  printf '[[registry]]\nlocation = "%s"\ninsecure = true\n' "$REGISTRY" >"$CONTAINERD/registries.conf"
  echo '{"default": [{"type": "insecureAcceptAnything"}]}' >"$CONTAINERD/policy.json"
  cat >"$CONTAINERD/crio.conf" <<TOML
[crio]
log_dir = "$CONTAINERD/logs"
version_file = "$CONTAINERD/version"
clean_shutdown_file = "$CONTAINERD/clean.shutdown"
internal_repair = false
[crio.api]
listen = "$CONTAINERD/sock"
[crio.runtime]
default_runtime = "runc"
cgroup_manager = "cgroupfs"
conmon_cgroup = "pod"
container_exits_dir = "$CONTAINERD/exits"
container_attach_socket_dir = "$CONTAINERD/attach"
namespaces_dir = "$CONTAINERD/namespaces"
pinns_path = "$PINNS"
hooks_dir = ["$CONTAINERD/none"]
irqbalance_config_restore_file = "disable"
[crio.runtime.runtimes.runc]
runtime_path = "$(command -v runc)"
runtime_root = "$CONTAINERD/runc"
monitor_path = "$(command -v conmon)"
monitor_cgroup = "pod"
[crio.image]
pause_image = "$PAUSE"
signature_policy = "$CONTAINERD/policy.json"
signature_policy_dir = "$CONTAINERD/policies"
namespaced_auth_dir = "$CONTAINERD/auth"
[crio.network]
network_dir = "$CONTAINERD/none"
[crio.nri]
enable_nri = false
TOML
  resume_crio
}

# Starts the instance again with the configuration that it has; its containers lived on.
resume_crio() {
  CONTAINERS_STORAGE_CONF=$CONTAINERD/storage.conf "$CRIO" --config "$CONTAINERD/crio.conf" --config-dir "$CONTAINERD/none" \
    --registries-conf "$CONTAINERD/registries.conf" --registries-conf-dir "$CONTAINERD/none" >>"$CONTAINERD.log" 2>&1 &
  echo $! >"$CONTAINERD/pid"
  TEST_PIDS+=($!)
  wait_for 30 "cri version >/dev/null 2>&1" || fail "CRI-O does not start: $(grep -v level=info "$CONTAINERD.log" | tail -3)"
}

# The end, also of a failed test: what conmon watches outlives CRI-O, and control groups outlive both (always with 1.30).
end_crio() {
  local monitor pids=()
  for monitor in $(processes); do
    [ "$(cat "/proc/$monitor/comm" 2>/dev/null)" = conmon ] && pids+=("$monitor" $(children "$monitor"))
  done
  [ ${#pids[@]} = 0 ] || slay "${pids[@]}"
  find /sys/fs/cgroup -depth -type d -name 'crio-*' 2>/dev/null |
    grep -F -f <(grep -sahoE '[0-9a-f]{64}' "$T"/*.log | sort -u) | xargs -r rmdir 2>/dev/null
  return 0
}

# Files of the images of tools_image that CRI-O has unpacked into its own store: a hundred an image. (What is mounted there
# is not its.)
unpacked() { find "$CONTAINERD/graph/overlay" -xdev -type f -path '*/diff/data/*' | wc -l; }
