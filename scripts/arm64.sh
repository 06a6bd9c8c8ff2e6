#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# `make arm64`: builds for arm64 by Debian's cross compiler, and runs the unit tests and corpus replays under qemu's
# emulation of a process. The libraries are unpacked into build/peers/arm64-root, because many development packages
# of two architectures cannot be installed side by side; this machine's packages are not touched.
set -euo pipefail
cd "$(dirname "$0")/.."
cannot() {
  echo "arm64: NOT TESTED: $*" >&2
  exit 77
}
scripts/deps.sh arm64 || cannot "the cross compiler or qemu cannot be installed"
root=build/peers/arm64-root
mapfile -t packages < <(scripts/deps.sh --print build | grep -e '-dev$'; echo libc6-dev)
# Another list than last time: anew.
[ "$(cat $root.packages 2>/dev/null)" = "${packages[*]}" ] || rm -f $root/.unpacked
scripts/unpack.sh --arch arm64 "$(scripts/mirror.sh suite)" $root "${packages[@]}" || cannot "no packages of arm64"
echo "${packages[*]}" >$root.packages

cmake --preset arm64 >/dev/null
SECONDS=0
cmake --build --preset arm64 -j "$(nproc)"
built=$SECONDS
echo "arm64: NOT TESTED under emulation:"
sed -n 's/^[a-z].*/  &/p' tests/emulation_skips
ctest --test-dir build/arm64 --output-on-failure --no-tests=error -j "$(nproc)" -L 'unit|replay' \
  --output-junit "$PWD/build/arm64/tests.xml" 2>&1 |
  /usr/bin/python3 tests/lib/times.py build/arm64 build/arm64/tests.xml $built
