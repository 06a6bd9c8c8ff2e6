#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# run_test.sh NAME COMMAND...: runs one script test for ctest. Exit status 77 means skipped; it is
# recorded by name, so that the end of the run can compare the skips with those expected.
name=$1
shift
"$@"
status=$?
if [ $status = 77 ]; then
  mkdir -p "$TEST_SKIPS" && : > "$TEST_SKIPS/$name"
  echo "SKIPPED: $name"
fi
exit $status
