#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Docker with containerd's image store, on a containerd that has imagefs as proxy snapshotter: pulled lazily, run, written,
# committed, pushed and removed.
. "$(dirname "$0")/../lib/lib.sh"
. "$(dirname "$0")/../lib/containerd.sh"
. "$(dirname "$0")/../lib/snapshots.sh"
need_containerd 2; need_docker
start_registry registry
start_proxy line
plain_host "$PROXY"
layered_image app
ref=$PROXY/test/app:1
serve
start_containerd two 2 imagefs
start_docker "$PROXY"

own_docker pull -q "$ref" >"$T/pull.out" 2>&1 || { cat "$T/pull.out"; fail "docker pull"; }
requests layers "$T/images/app"
same "lazy" 5 "$(counter snapshot_layers_lazy)"
same "unpacked" 0 "$(counter snapshot_layers_unpacked)"
same "driver" imagefs "$(own_docker info --format '{{.Driver}}')"
run=(run --network host --cgroup-parent /imagefs-test)
same "a container" "three 300" "$(own_docker "${run[@]}" --rm "$ref" sh -c 'cat /etc/motd; find /data -type f | wc -l' | xargs)"

own_docker "${run[@]}" --name changed "$ref" sh -c 'echo four >/etc/motd; rm -r /data' || fail "docker run"
same "what it changed" "C /etc C /etc/motd D /data" "$(own_docker diff changed | sort | xargs)"
own_docker commit changed "$PROXY/test/changed:1" >/dev/null || fail "docker commit"
same "a container of the commit" "four" "$(own_docker "${run[@]}" --rm "$PROXY/test/changed:1" sh -c 'cat /etc/motd; [ ! -e /data ] || echo data')"

# What was never fetched is not in what docker saves, without a word; it can be fetched.
layers() { own_docker save "$ref" | tar -tf - | sed -n 's,^blobs/sha256/,,p' | sort | comm -12 - <(layer_digests "$T/images/app") | wc -l; }
layer_digests() { $PY -c 'import glob, json, sys
for path in glob.glob(sys.argv[1] + "/blobs/sha256/*"):
    raw = open(path, "rb").read(4096)
    if b"\"layers\":" in raw: print(*sorted({l["digest"][7:] for l in json.loads(open(path).read())["layers"]}), sep="\n")' "$1"; }
same "layers saved" 0 "$(layers)"
own_ctr -n moby content fetch --hosts-dir "$T/hosts" "$ref" >/dev/null 2>"$T/fetch.out" || { cat "$T/fetch.out"; fail "ctr content fetch"; }
same "layers saved then" 5 "$(layers)"

own_docker "${run[@]}" -d --name lives "$ref" sleep 1000 >/dev/null
stop_serving
serve
same "it lives on" three "$(own_docker exec lives cat /etc/motd)"
own_docker rm -f lives changed >/dev/null
own_docker image rm -f "$PROXY/test/changed:1" "$ref" >/dev/null
wait_for 60 '[ "$(counter snapshots)" = 0 ]' || fail "snapshots stay: $(counter snapshots)"
same "mounts" "" "$(mounts_below "$RUN")"

# With keep_blobs, what docker saves is whole.
stop_serving
printf '[containerd]\nkeep_blobs = true\n[credentials]\ncontainerd = "%s"\n' "$CONTAINERD/sock" >"$T/keep.toml"
serve --config "$T/keep.toml"
own_docker pull -q "$ref" >/dev/null
wait_for 90 '[ "$(layers)" = 5 ]' || fail "docker saves $(layers) of 5 layers: $(own_ctr -n moby content ls)"
