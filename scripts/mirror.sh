#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Prints the Debian mirror that this machine's apt uses, as debootstrap and a scratch apt want it.
#   scripts/mirror.sh uri|suite
set -euo pipefail
targets=$(apt-get indextargets --format '$(ORIGIN)|$(COMPONENT)|$(CODENAME)|$(REPO_URI)' 'Created-By: Packages' |
  grep '^Debian|main|' | grep -vE -- '-(security|updates|backports)\|' || true)
# Without package lists only the sources themselves tell.
[ -n "$targets" ] || targets=$(apt-get indextargets --format 'Debian|$(COMPONENT)|$(RELEASE)|$(REPO_URI)' 'Created-By: Packages' |
  grep '|main|' | grep -vE -- '-(security|updates|backports)\|' || true)
first=$(head -n 1 <<<"$targets")
[ -n "$first" ] || { echo "mirror: apt has no Debian source; see /etc/apt/sources.list" >&2; exit 1; }
case $1 in
  uri) cut -d'|' -f4 <<<"$first" ;;
  suite) cut -d'|' -f3 <<<"$first" ;;
esac
