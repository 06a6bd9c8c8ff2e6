#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What fetch/ pushes is taken by a registry that others wrote, and read back from it: blobs of every
# size, mounts between repositories, artifacts found by their subject; with and without credentials.
. "$(dirname "$0")/../lib/lib.sh"
need docker-registry; need htpasswd
tests=$TEST_BUILD/tests/fetch_test
[ -x "$tests" ] || skip "no $tests"

start_registry open
IMAGEFS_TEST_REGISTRY=$REGISTRY "$tests" --gtest_filter='RealRegistryTest.*' >"$T/out" 2>&1 ||
  { cat "$T/out"; fail "the registry that everybody may push to"; }
grep -q 'PASSED.* 4 tests' "$T/out" || { cat "$T/out"; fail "fewer tests than there are"; }

start_registry closed htpasswd
IMAGEFS_TEST_REGISTRY=$REGISTRY IMAGEFS_TEST_USER=tester IMAGEFS_TEST_PASSWORD='se cret:1' \
  "$tests" --gtest_filter='RealRegistryTest.*' >"$T/out" 2>&1 ||
  { cat "$T/out"; fail "the registry that asks for credentials"; }
grep -q 'PASSED.* 5 tests' "$T/out" || { cat "$T/out"; fail "fewer tests than there are"; }

# A line that breaks in the middle of chunks, and answers that ask for patience, cost time only.
start_registry cut
start_shaper line --rtt 5
shape rules '[{"method": "PATCH", "nth": 2, "cut_request": 500000}, {"method": "PATCH", "nth": 5, "delay": 0.1, "cut_request": 0},
              {"method": "PUT", "nth": 5, "cut_request": 1}, {"every": 9, "status": 429, "retry_after": 0},
              {"every": 13, "status": 503}]' >"$T/rules"
IMAGEFS_TEST_REGISTRY=$SHAPED "$tests" --gtest_filter='RealRegistryTest.Art*:RealRegistryTest.Mounts' >"$T/out" 2>&1 ||
  { cat "$T/out"; fail "over a bad line"; }
# Of those three, one may meet the answer of another rule, which goes by the order of requests that run at once.
cut=$($PY -c 'import json,sys
print(sum(r["faults"][-1:] == ["cut_request"] for r in map(json.loads, open(sys.argv[1]))))' "$SHAPER/requests")
[ "$cut" -ge 2 ] || fail "only $cut faults came to pass"
