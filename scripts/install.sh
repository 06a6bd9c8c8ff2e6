#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Installs what is built, with a list of the files, so that scripts/uninstall.sh needs neither this tree nor its version.
#   [DESTDIR=DIR] scripts/install.sh PREFIX
set -euo pipefail
cd "$(dirname "$0")/.."
[ $# = 1 ] && [[ $1 == /* ]] || { echo "usage: install.sh PREFIX, an absolute path" >&2; exit 2; }
build=${IMAGEFS_BUILD:-build/release}
cmake --install "$build" --strip --prefix "$1"
# CMake's list has no line feed at its end.
install -D -m 644 <(cat "$build/install_manifest.txt" && echo) "${DESTDIR:-}$1/share/imagefs/installed-files"
