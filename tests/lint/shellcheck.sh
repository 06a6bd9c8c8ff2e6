#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What shellcheck calls an error or a warning, in every shell script, but for what is meant to be as it is:
# SC2034: names are used by another file, or in a condition that wait_for evaluates.
# SC2046, SC2206, SC2207: lists of words (process ids, options, files) are taken apart on purpose.
# SC2115, SC2164: an unset name or a failed command ends the script; the lint "shell" demands that of all scripts.
# SC2120: only some callers of a function give arguments.
set -euo pipefail
cd "$(dirname "$0")/../.."
command -v shellcheck >/dev/null || { echo "skip: shellcheck is not installed"; exit 77; }
options=(--severity=warning --format=gcc '--exclude=SC2034,SC2046,SC2206,SC2207,SC2115,SC2164,SC2120')
git ls-files -z '*.sh' '*.bash' tests/vm/guest/init |
  xargs -0 -n 50 -P "$(nproc)" shellcheck --shell=bash "${options[@]}"
git ls-files -z .ci/run packaging/postinst packaging/prerm packaging/postrm packaging/kubernetes/imagefs-node |
  xargs -0 shellcheck --shell=sh "${options[@]}"
