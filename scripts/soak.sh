#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# `make soak S=<seconds>`: tests/soak for that long, and a kill of the daemon under a hundred readers for every four
# seconds of it, at most KILLS (1000); readers in a store at its limit, and cycles of everything that may leave space.
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${S:-3600} most=${KILLS:-1000}
scripts/deps.sh test
cmake --preset release >/dev/null
cmake --build --preset release
export IMAGEFS=$PWD/build/release/imagefs TEST_BUILD=$PWD/build/release
kills=$((seconds / 4 < most ? seconds / 4 : most))
KILLS=$kills tests/fault/068-hand-over.sh
SECONDS_OF_READING=$((seconds / 2)) tests/integration/130-limit.sh
CYCLES=300 tests/fault/072-leaks.sh
S=$seconds tests/soak/soak.sh
