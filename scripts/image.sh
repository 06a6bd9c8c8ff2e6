#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The container image of imagefs for the nodes of a cluster (docs/kubernetes.md), as an OCI layout: build/image, tag
# `imagefs`. Two layers: what Debian has (the C library and the others that the programs are linked with, busybox,
# the certificates of public authorities), and what is of this project. No container runtime is needed. The same
# programs and packages give the same digest.
#   scripts/image.sh [LAYOUT]
set -euo pipefail
cd "$(dirname "$0")/.."
build=${IMAGEFS_BUILD:-build/release}
layout=${1:-build/image}
tag=imagefs
version=$(sed -nE 's/^project\(imagefs VERSION ([0-9.]+).*/\1/p' CMakeLists.txt)
export SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2>/dev/null || echo 0)}
created=$(date -u -d "@$SOURCE_DATE_EPOCH" +%Y-%m-%dT%H:%M:%SZ)
work=$(mktemp -d "${TMPDIR:-/tmp}/imagefs-image.XXXXXX")
trap 'rm -rf "$work"' EXIT
umask 022
base=$work/base own=$work/own

# ---- this project
cmake --install "$build" --strip --prefix "$work/installed" >"$work/install.out" || { cat "$work/install.out"; exit 1; }
mkdir -p "$own"/usr/bin "$own"/usr/libexec/imagefs "$own"/usr/share/doc/imagefs
install -m 755 "$work"/installed/bin/imagefs "$work"/installed/bin/imagefsd packaging/kubernetes/imagefs-node "$own/usr/bin"
install -m 755 "$work"/installed/libexec/imagefs/imagefs-holder "$own/usr/libexec/imagefs"
install -m 644 LICENSE packaging/copyright "$own/usr/share/doc/imagefs"

# ---- Debian
mkdir -p "$base"/{etc/ssl/certs,usr/bin,usr/sbin,usr/lib,usr/lib64,root,run,tmp,proc,sys,dev,var/lib}
for directory in bin sbin lib lib64; do ln -s "usr/$directory" "$base/$directory"; done
chmod 1777 "$base/tmp" && chmod 700 "$base/root"
files=(/bin/busybox /etc/ssl/certs/ca-certificates.crt)
while read -r library; do files+=("$library"); done < <(
  ldd "$own"/usr/bin/imagefs "$own"/usr/bin/imagefsd "$own"/usr/libexec/imagefs/imagefs-holder |
    grep -oE '(/[^ ]+) \(0x' | cut -d' ' -f1 | sort -u)
names=()
for file in "${files[@]}"; do
  case $file in
    /bin/busybox) to=/usr/bin/busybox ;;
    /lib64/* | /lib/*) to=/usr$file ;;
    *) to=$file ;;
  esac
  install -D -m 755 "$(readlink -f "$file")" "$base$to"
  # A file of a merged /usr is listed under one of two names.
  real=$(readlink -f "$file")
  names+=("$real" "${real#/usr}")
done
packages=(ca-certificates $({ dpkg -S "${names[@]}" || true; } 2>/dev/null | sed 's/:.*//' | sort -u))
chmod 644 "$base"/etc/ssl/certs/ca-certificates.crt
for applet in sh awk cat chmod cmp cp cut find grep head ln ls mkdir mktemp nsenter printf readlink rm rmdir sed sleep \
  sort tail touch tr umount uname wc; do
  ln -s busybox "$base/usr/bin/$applet"
done
printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/sh\n' >"$base/etc/passwd"
printf 'root:x:0:\nnogroup:x:65534:\n' >"$base/etc/group"
printf 'passwd: files\ngroup: files\nhosts: files dns\n' >"$base/etc/nsswitch.conf"
# The terms of what is in it, and which versions it is.
for package in "${packages[@]}"; do
  install -D -m 644 "/usr/share/doc/$package/copyright" "$base/usr/share/doc/$package/copyright"
  dpkg-query -W -f='${source:Package} ${source:Version} ${binary:Package} ${Version}\n' "$package"
done | sort -u >"$work/packages"
install -m 644 "$work/packages" "$base/usr/share/doc/packages"

# ---- the image
rm -rf "$layout"
umoci init --layout "$layout"
umoci new --image "$layout:$tag"
for layer in base own; do
  tar -C "$work/$layer" --sort=name --format=gnu --owner=0 --group=0 --numeric-owner --mtime="@$SOURCE_DATE_EPOCH" \
    -cf "$work/$layer.tar" .
  umoci raw add-layer --image "$layout:$tag" --history.created "$created" --history.created_by "scripts/image.sh: $layer" \
    "$work/$layer.tar"
done
umoci config --image "$layout:$tag" --created "$created" --history.created "$created" --history.created_by scripts/image.sh \
  --os linux --architecture "$(dpkg --print-architecture)" --author imagefs \
  --config.entrypoint /usr/bin/imagefs-node --config.cmd run --config.env PATH=/usr/bin:/usr/sbin \
  --config.label "org.opencontainers.image.version=$version" --config.label org.opencontainers.image.licenses=Apache-2.0
umoci gc --layout "$layout"
echo "$layout:$tag $(du -sk --apparent-size "$layout" | cut -f1) kB, $(sed -E 's/.*"digest":"([^"]*)".*/\1/' "$layout/index.json")"
