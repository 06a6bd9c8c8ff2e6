#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Every C++ file is as clang-format leaves it (`make format` does it).
set -euo pipefail
cd "$(dirname "$0")/../.."
files=$(git ls-files '*.cc' '*.h')
clang-format --dry-run --Werror --ferror-limit=1 $files
