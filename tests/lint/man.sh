#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The manual pages have nothing to complain of, and refer to pages that are there.
set -euo pipefail
cd "$(dirname "$0")/../.."
command -v man >/dev/null || { echo "skip: man is not installed"; exit 77; }
bad=0
for page in $(git ls-files 'docs/man/*'); do
  said=$(LC_ALL=C.UTF-8 MANROFFSEQ='' MANWIDTH=80 man --warnings -E UTF-8 -l -Tutf8 -Z "$page" 2>&1 >/dev/null) || bad=1
  [ -z "$said" ] || { echo "man: $page: $said"; bad=1; }
  grep -q '^\.Dt ' "$page" || { echo "man: $page is not mdoc"; bad=1; }
  while read -r name section; do
    case $name in
      imagefs* | mount.imagefs) [ -e "docs/man/$name.$section" ] || { echo "man: $page refers to $name($section)"; bad=1; } ;;
    esac
  done < <(sed -nE 's/^\.Xr ([^ ]+) ([0-9]).*/\1 \2/p' "$page")
done
# What the units refer to.
for page in $(grep -rohE 'man:[a-z.-]+\([0-9]\)' systemd | sed -E 's/man:(.*)\((.)\)/\1.\2/' | sort -u); do
  [ -e "docs/man/$page" ] || { echo "man: a unit refers to $page"; bad=1; }
done
exit $bad
