#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The one list of the Debian packages that the project uses, by purpose. Installs what is missing
# and nothing else; quick and silent when all is there.
#   scripts/deps.sh build|package|image|run|test|vm|bench|coverage|arm64|all  --print only prints the list
set -euo pipefail

build="make cmake ninja-build ccache g++ pkg-config libfuse3-dev fuse3 libcurl4-openssl-dev libssl-dev
  libzstd-dev zlib1g-dev libisal-dev libleveldb-dev libsnappy-dev libspdlog-dev libfmt-dev libabsl-dev
  libgrpc++-dev libprotobuf-dev protobuf-compiler protobuf-compiler-grpc libc-ares-dev libre2-dev
  nlohmann-json3-dev libsystemd-dev libyaml-cpp-dev libflatbuffers-dev flatbuffers-compiler libcli11-dev
  libtomlplusplus-dev libmicrohttpd-dev prometheus-cpp-dev libsmartcols-dev libgtest-dev"
package="$build dpkg-dev file"
image="$build umoci busybox-static ca-certificates"
run="$build debootstrap umoci skopeo docker-registry python3 ca-certificates"
test="$run curl clang clang-format clang-tidy libclang-rt-14-dev erofs-utils containerd runc podman attr
  libcap2-bin apache2-utils openssl zstd util-linux python3-grpcio python3-protobuf golang-go
  golang-github-containerd-containerd-dev systemd systemd-container dpkg-dev file
  man-db lintian minisign iproute2 faketime strace shellcheck busybox-static python3-yaml python3-jsonschema
  nginx-light autofs zsh fish bubblewrap charliecloud-runtime uidmap rsync"
vm="$test qemu-system-x86 busybox-static cpio kmod e2fsprogs xz-utils"
bench="$test time pigz"
coverage="$test llvm-14"
# The libraries for arm64 are unpacked beside this machine's: see scripts/arm64.sh.
arm64="$build g++-aarch64-linux-gnu qemu-user"

print=
[ "${1:-}" = --print ] && { print=1; shift; }
case "${1:-all}" in
  build) list=$build ;;
  package) list=$package ;;
  image) list=$image ;;
  run) list=$run ;;
  test) list=$test ;;
  vm) list=$vm ;;
  bench) list=$bench ;;
  coverage) list=$coverage ;;
  arm64) list=$arm64 ;;
  all) list="$bench $vm $coverage $arm64" ;;
  *) echo "usage: deps.sh [--print] build|package|image|run|test|vm|bench|coverage|arm64|all" >&2; exit 2 ;;
esac
if [ -n "$print" ]; then printf '%s\n' $list; exit 0; fi

missing=()
for package in $list; do
  state=$(dpkg-query -W -f='${db:Status-Status}' "$package" 2>/dev/null) || state=
  [ "$state" = installed ] || missing+=("$package")
done
[ ${#missing[@]} -gt 0 ] || exit 0
echo "deps: installing ${missing[*]}" >&2

if [ "$(id -u)" = 0 ]; then
  as_root=()
elif command -v sudo >/dev/null; then
  as_root=(sudo)
else
  echo "deps: these packages are missing and there is neither root nor sudo: ${missing[*]}" >&2
  exit 1
fi

# Some of these packages would start a service of their own (docker-registry on every address).
# The project needs only the programs, so none is started, and none is left enabled.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee $policy >/dev/null
  "${as_root[@]}" chmod 755 $policy
  trap '"${as_root[@]}" rm -f $policy' EXIT
fi

apt() {
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -y -q -o DPkg::Lock::Timeout=600 \
    -o Dpkg::Use-Pty=0 -o Acquire::Retries=3 "$@" >&2
}

# The first try may find the package lists old or absent, or another apt-get at work on them.
done=
for attempt in 1 2 3 4; do
  if apt install --no-install-recommends "${missing[@]}"; then done=1; break; fi
  sleep $((attempt * 3))
  apt update || true
done
if [ -z "$done" ]; then
  echo "deps: apt-get could not install: ${missing[*]}; see its messages above" >&2
  exit 1
fi

if [ -d /run/systemd/system ]; then
  for package in "${missing[@]}"; do
    case $package in docker-registry) "${as_root[@]}" systemctl disable -q docker-registry || true ;;
      nginx-light) "${as_root[@]}" systemctl disable -q nginx || true ;;
    esac
  done
fi
