# SPDX-License-Identifier: Apache-2.0
# Sourced behind lib.sh: podman over the image store that the daemon makes for it.
AT_END+=(end_podman)
need_podman() { need_root; need_fuse; need podman; need runc; need conmon; }

# use_podman NAME: own_podman is from here on one with a store of its own and that of the daemon at $ROOT beside it.
use_podman() {
  mkdir -p "$T/podman"
  printf '[storage]\ndriver = "overlay"\ngraphroot = "%s"\nrunroot = "%s"\n[storage.options]\nadditionalimagestores = ["%s"]\n' \
    "$T/podman/$1/graph" "$T/podman/$1/run" "$ROOT/podman" >"$T/podman/storage.conf"
}
# use_layers NAME: one whose layers may come from the daemon at $RUN (`layers = true` in its configuration).
use_layers() {
  mkdir -p "$T/podman"
  printf '[storage]\ndriver = "overlay"\ngraphroot = "%s"\nrunroot = "%s"\n[storage.options]\nadditionallayerstores = ["%s:ref"]\n' \
    "$T/podman/$1/graph" "$T/podman/$1/run" "$RUN/als" >"$T/podman/storage.conf"
}
# What a container needs on a machine that neither lets limits be raised nor has cgroups as crun wants them.
CONTAINER=(--network=host --ulimit nofile=1024:1024 --ulimit nproc=1024:1024)
run() { timeout -k 5 60 env CONTAINERS_STORAGE_CONF="$T/podman/storage.conf" podman --cgroup-manager cgroupfs --events-backend none \
  --tmpdir "$T/podman/tmp" --runtime runc run --pull never "${CONTAINER[@]}" "$@"; }
# What a command prints in a container that is thrown away: one line.
says() { { run --rm "$@" 2>&1 || echo "status $?"; } | tr '\n' ' ' | sed 's/ $//'; }

end_podman() {
  [ -d "$T/podman" ] || return 0
  timeout 30 env CONTAINERS_STORAGE_CONF="$T/podman/storage.conf" podman --cgroup-manager cgroupfs --events-backend none \
    --tmpdir "$T/podman/tmp" --runtime runc rm -fa -t 0 >/dev/null 2>&1
}

# tools_image NAME WORD: an image of four layers of this machine's tools; /word has the WORD, and what was removed is gone.
tools_image() {
  $PY - "$LIB" "$T/images/$1" "$2" <<'P'
import random, sys
sys.path.insert(0, sys.argv[1])
from oci import *
tools = host_tar(["sh", "cat", "ls", "sleep", "sha256sum", "touch", "rm", "mkdir", "find", "stat", "id", "wc"])
data = Tar().dir("data", mode=0o750)
for k in range(100):
    data.file(f"data/{k}", random.Random(f"{sys.argv[3]} {k}").randbytes(4000 + 137 * k))
layers = [tools.file("gone", b"x").file("word", b"lower\n"), Tar(), Tar().file("word", sys.argv[3].encode() + b"\n").whiteout("gone"), data]
simple_image(sys.argv[2], layers, config_extra={"config": {"Env": ["PATH=/bin:/usr/bin"], "Cmd": ["cat", "/word"], "Labels": {"word": sys.argv[3]}}})
P
}
image_id() { field 'j["config"]["digest"][7:]' <"$(manifest_file "$1")"; }
manifest_digest() { field 'j["manifests"][0]["digest"]' <"$T/images/$1/index.json"; }
manifest_file() { echo "$T/images/$1/blobs/sha256/$(manifest_digest "$1" | cut -d: -f2)"; }
names() { ifs add --list --json | field '" ".join(i["name"] for i in j["images"])'; }
# What podman lists: names, sorted.
listed() { own_podman images --format '{{.Repository}}:{{.Tag}}' | sort | tr '\n' ' ' | sed 's/ $//'; }
counter() { ifs status --json | field "j['counters']['$1']"; }
layers_of() { field '" ".join(l["digest"] for l in j["layers"])' <"$(manifest_file "$1")"; }
# Layers that somebody with that agent has fetched since the mark.
mark() { MARK=$(wc -l <"$REGISTRY_LOG"); }
fetched() {
  tail -n "+$((MARK + 1))" "$REGISTRY_LOG" | grep -E "\"GET /v2/.*/blobs/.*\" (200|206) .*\"$1" | grep -oE 'sha256:[0-9a-f]{64}' | sort -u |
    grep -cxF "$(for layout in "$T"/images/*/; do layers_of "$(basename "$layout")" | tr ' ' '\n'; done)" || true
}
