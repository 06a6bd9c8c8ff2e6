#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# `make run`: builds, and mounts an image.
#   REF=<reference> DIR=<directory> make run     that image there
#   make run                                     a small real image made on the spot: Debian's minbase
#     tree with two layers on top, packed by umoci, pushed by skopeo into a registry on a loopback
#     port, mounted from it, listed, and a program run out of it
set -euo pipefail
cd "$(dirname "$0")/.."
now() { echo "${EPOCHREALTIME/./}"; }
started=$(now)
step() {  # step TEXT: says how long the step before took
  local at
  at=$(now)
  [ -z "${step_name:-}" ] || printf '    %-46s %7.2f s\n' "$step_name" "$(((at - step_at) / 10000))e-2"
  step_name=$1 step_at=$at
}
title() { printf '\n==> %s\n' "$*"; }

title "packages, build"
step "packages"
if [ -n "${REF:-}" ]; then scripts/deps.sh build; else scripts/deps.sh run; fi
step "build"
mkdir -p build
cmake --preset release >build/configure.log 2>&1 || { cat build/configure.log >&2; exit 1; }
cmake --build --preset release --target imagefs
step ""
imagefs=$PWD/build/release/imagefs

if [ -n "${REF:-}" ]; then
  [ -n "${DIR:-}" ] || { echo "run: DIR is not set; say where to mount: REF=$REF DIR=<directory> make run" >&2; exit 2; }
  mkdir -p "$DIR"
  title "mount $REF at $DIR"
  "$imagefs" mount "$REF" "$DIR"
  ls -l "$DIR"
  "$imagefs" status | head -n 20
  printf '\nunmount with:  %s umount %s\n' "$imagefs" "$DIR"
  exit 0
fi

[ "$(id -u)" = 0 ] || exec sudo -E "$0"   # debootstrap, chroot
work=$PWD/build/run
mkdir -p "$work"
[ ! -e "$work/unmount" ] || "$work/unmount" >/dev/null 2>&1 || true
# The image is made again when the release or this script is another one.
suite=$(scripts/mirror.sh suite)
stamp=$(cat "$0" <(echo "$suite") | sha256sum | cut -c1-16)

title "an image: Debian $suite minbase and two layers on top"
if [ ! -e "$work/tree.$suite" ]; then
  step "debootstrap"
  rm -rf "$work/tree"
  debootstrap --variant=minbase "$suite" "$work/tree" "$(scripts/mirror.sh uri)" >"$work/debootstrap.log" 2>&1 ||
    { tail -n 5 "$work/debootstrap.log" >&2; exit 1; }
  rm -rf "$work"/tree/var/cache/apt/archives/*.deb "$work"/tree/var/lib/apt/lists/*
  touch "$work/tree.$suite"
fi
if [ ! -e "$work/oci.$stamp" ]; then
  step "three layers, packed by umoci"
  rm -rf "$work"/oci "$work"/oci.* "$work/bundle"
  umoci init --layout "$work/oci"
  umoci new --image "$work/oci:demo"
  umoci unpack --image "$work/oci:demo" "$work/bundle"
  rmdir "$work/bundle/rootfs" 2>/dev/null || rm -rf "$work/bundle/rootfs"
  cp -a "$work/tree" "$work/bundle/rootfs"
  umoci repack --image "$work/oci:demo" "$work/bundle" --history.created_by debootstrap
  rm -rf "$work/bundle"
  umoci unpack --image "$work/oci:demo" "$work/bundle"
  root=$work/bundle/rootfs
  mkdir -p "$root/opt/demo"
  printf '#!/bin/sh\necho "hello from $(. /etc/os-release; echo $PRETTY_NAME), out of an image that nobody unpacked"\n' >"$root/opt/demo/hello"
  chmod 755 "$root/opt/demo/hello"
  seq 100000 >"$root/opt/demo/numbers"
  ln -s /opt/demo/hello "$root/usr/local/bin/hello"
  umoci repack --image "$work/oci:demo" "$work/bundle" --refresh-bundle --history.created_by 'second layer'
  rm -rf "$root"/usr/share/doc/* "$root/opt/demo/numbers"
  echo third >"$root/opt/demo/layer"
  umoci repack --image "$work/oci:demo" "$work/bundle" --history.created_by 'third layer'
  umoci config --image "$work/oci:demo" --config.cmd /opt/demo/hello
  rm -rf "$work/bundle"
  touch "$work/oci.$stamp"
fi
step ""

title "a registry on a loopback port"
step "start"
cat >"$work/registry.yml" <<YML
version: 0.1
log: {level: info, accesslog: {disabled: false}}
storage: {filesystem: {rootdirectory: $work/registry}}
http: {addr: "127.0.0.1:0"}
YML
docker-registry serve "$work/registry.yml" >"$work/registry.log" 2>&1 </dev/null &
registry=$!
trap 'kill $registry 2>/dev/null' EXIT
for _ in $(seq 200); do
  host=$(grep -o 'listening on 127.0.0.1:[0-9]*' "$work/registry.log" | head -n 1 | cut -d' ' -f3) && [ -n "$host" ] && break
  sleep 0.05
done
[ -n "${host:-}" ] || { tail -n 5 "$work/registry.log" >&2; exit 1; }
step "push by skopeo"
skopeo copy -q --dest-tls-verify=false "oci:$work/oci:demo" "docker://$host/demo/debian:latest"
step ""

# A store of its own, empty at the start, so that the mount below is a cold one.
dir=$work/mnt
run=("$imagefs" --root "$work/store" --run "$work/daemon")
"${run[@]}" stop --unmount >/dev/null 2>&1 || true
rm -rf "$work/store" "$work/daemon"
mkdir -p "$dir"
cat >"$work/unmount" <<SH
#!/bin/sh
$(printf '%q ' "${run[@]}")umount $(printf '%q' "$dir")
$(printf '%q ' "${run[@]}")stop
SH
chmod +x "$work/unmount"

title "mount $host/demo/debian at $dir"
step "imagefs mount"
"${run[@]}" mount "$host/demo/debian:latest" "$dir" --json >"$work/mount.json"
step "ls, and a program run out of the mount"
ls "$dir"
chroot "$dir" /opt/demo/hello
step "a second mount of the same image"
mkdir -p "$dir.second"
"${run[@]}" mount -q "$host/demo/debian:latest" "$dir.second"
step "umount of that one"
"${run[@]}" umount "$dir.second"
step ""
title "what was fetched"
/usr/bin/python3 - "$work/mount.json" "$work/registry.log" <<'PY'
import json, re, sys
mount = json.load(open(sys.argv[1]))
for layer in mount["layers"]:
    print("    layer %s  %8.2f MB  %s" % (layer["digest"][7:19], layer["bytes"] / 1e6, "fetched" if layer["fetched"] else "was here"))
print("    %.2f MB in all;" % (mount["fetched_bytes"] / 1e6), ", ".join("%s %s ms" % (k, round(v)) for k, v in mount["timings_ms"].items()))
asked = re.findall(r'"GET (/v2/\S+) HTTP[^"]*" 20[06]', open(sys.argv[2]).read())
print("    requests that the registry answered: %d, of them for blobs: %d" % (len(asked), sum("/blobs/" in a for a in asked)))
PY
printf '\nmade, pushed, mounted and run in %.1f s\n' "$((($(now) - started) / 100000))e-1"
printf 'the image stays mounted:  ls %s\nunmount with:             %s\n' "$dir" "$work/unmount"
