#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The network that tests and benchmarks make for themselves is as bad as they say, and no worse.
exec /usr/bin/python3 -B "$(dirname "$0")/../lib/shaper_test.py"
