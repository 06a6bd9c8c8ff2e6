#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# `make test-vm`: the tests in virtual machines (tests/vm), on the kernels of several releases of Debian. Nothing of them
# may be skipped.
#   IMAGEFS_TEST_ARGS   further arguments for ctest, e.g. "-R kernels"
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/deps.sh vm
cmake --preset release >/dev/null
cmake --build --preset release -j "$(nproc)" --target imagefs imagefsd imagefs-holder
export IMAGEFS_TEST_VM=1
exec ctest --test-dir build/release -C vm -L '^vm$' --verbose --no-tests=error ${IMAGEFS_TEST_ARGS:-}
