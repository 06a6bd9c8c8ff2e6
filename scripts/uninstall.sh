#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Removes what scripts/install.sh installed, and the directories of these files that are empty then and imagefs's own.
# Stores, configurations and mounts stay.
#   [DESTDIR=DIR] scripts/uninstall.sh PREFIX
set -euo pipefail
[ $# = 1 ] && [[ $1 == /* ]] || { echo "usage: uninstall.sh PREFIX, an absolute path" >&2; exit 2; }
prefix=${1%/} list=${DESTDIR:-}${1%/}/share/imagefs/installed-files
refuse() { echo "uninstall: $*" >&2; exit 1; }
[ -f "$list" ] || refuse "$list: no such file; name the PREFIX, and the DESTDIR, of the installation"
mapfile -t files <"$list"
# Units may be elsewhere (IMAGEFS_UNIT_DIR).
for file in "${files[@]}"; do
  [[ $file == "$prefix"/* || $file == /*imagefs* ]] && [[ $file != */../* ]] ||
    refuse "$list names $file, which is no file of imagefs; correct the list"
done
removed=0
for file in "${files[@]}" "$prefix/share/imagefs/installed-files"; do
  [ -e "${DESTDIR:-}$file" ] || [ -L "${DESTDIR:-}$file" ] || continue
  rm -f -- "${DESTDIR:-}$file"
  removed=$((removed + 1))
done
# Deepest first.
for file in "${files[@]}" "$prefix/share/imagefs/installed-files"; do
  directory=${file%/*}
  while [[ $directory == "$prefix"/*imagefs* || $directory == */containerd.service.d ]]; do
    echo "${DESTDIR:-}$directory"
    directory=${directory%/*}
  done
done | sort -ru | while read -r directory; do
  [ ! -d "$directory" ] || rmdir --ignore-fail-on-non-empty -- "$directory"
done
echo "uninstall: $removed files removed from ${DESTDIR:-}$prefix; stores, mounts and configurations stay"
