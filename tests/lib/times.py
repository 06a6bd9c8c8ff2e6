# SPDX-License-Identifier: Apache-2.0
"""Passes on what ctest prints and puts, before its summary, where the time went: by label, the slowest tests, the unit
tests that skipped something, and what building and testing took.

    ctest --test-dir BUILD --output-junit FILE ... | times.py BUILD FILE BUILD_SECONDS
"""
import collections
import json
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as xml

SUMMARY = re.compile(r"\d+% tests passed, ")
SLOWEST = 10


def pass_on(lines):
    """Prints all lines as they come, but for the summary, which it returns."""
    held = []
    for line in lines:
        if SUMMARY.match(line):
            # A test that failed may have printed one as well: the last one counts.
            sys.stdout.writelines(held)
            held = []
        if held or SUMMARY.match(line):
            held.append(line)
        else:
            sys.stdout.write(line)
            sys.stdout.flush()
    return held


def labels(build):
    """{name: label}; the file with the times has no labels."""
    shown = subprocess.run(["ctest", "--test-dir", build, "--show-only=json-v1"], check=True, stdout=subprocess.PIPE)
    return {test["name"]: p["value"][0] for test in json.loads(shown.stdout)["tests"]
            for p in test.get("properties", []) if p["name"] == "LABELS"}


def tests(build, junit):
    """(name, label, seconds, ran) of every test."""
    label = labels(build)
    for case in xml.parse(junit).iter("testcase"):
        yield case.get("name"), label.get(case.get("name"), "suite"), float(case.get("time")), case.get("status") != "notrun"


def skipped_units(build):
    """(suite and test, reason) of GoogleTest's skips; ctest knows its programs only as a whole."""
    reason = []
    for line in open(build + "/Testing/Temporary/LastTest.log", encoding="utf-8", errors="replace"):
        line = line.rstrip()
        skip = re.match(r"\[  SKIPPED \] (\S+) \(\d+ ms\)", line)
        if skip:
            yield skip[1], " ".join(reason[1:])
        if re.match(r"\[ RUN      \] |\[  SKIPPED \] |\[       OK \] ", line):
            reason = []
        elif line:
            reason.append(line)


def report(all_tests, units, build_seconds, test_seconds):
    by_label = collections.defaultdict(lambda: [0, 0, 0.0])
    for _, label, seconds, ran in all_tests:
        of = by_label[label]
        of[0] += 1
        of[1] += not ran
        of[2] += seconds
    print(f"{'label':<14}{'tests':>6}{'skipped':>9}{'seconds':>10}")
    for label, (count, skipped, seconds) in sorted(by_label.items(), key=lambda item: -item[1][2]):
        print(f"{label:<14}{count:>6}{skipped:>9}{seconds:>10.1f}")
    print("\nthe slowest tests")
    for name, _, seconds, _ in sorted(all_tests, key=lambda test: -test[2])[:SLOWEST]:
        print(f"{seconds:>8.1f} s  {name}")
    if units:
        print("\nunit tests that skipped")
        for name, reason in units:
            print(f"  {name}: {reason}")
    print(f"\nbuilt in {build_seconds} s, tested in {test_seconds:.0f} s\n")


def main():
    build, junit, build_seconds = sys.argv[1:]
    began = time.monotonic()
    summary = pass_on(sys.stdin)
    took = time.monotonic() - began
    # Without a summary ctest has not run anything, and has said why.
    if summary:
        report(list(tests(build, junit)), list(skipped_units(build)), int(build_seconds), took)
    sys.stdout.writelines(summary)


main()
