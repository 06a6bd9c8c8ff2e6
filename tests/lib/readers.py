#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Readers that compare every byte, for as long as a file is not there.

  readers.py TRUTH MOUNT READERS STOP

READERS processes read random pieces of the regular files of MOUNT and compare them with those of TRUTH, half of
them through files that they opened at the start, until the file STOP appears. Prints one line of JSON: reads, errors
by name, wrong answers, the longest read in milliseconds, and the first few failures. Ends with 1 if there was an error
or a wrong byte.
"""
import collections
import errno
import json
import os
import random
import sys
import time


def read(rng, mount, files, held, counts):
    """One read; returns what failed, or None."""
    if held and rng.random() < 0.5:
        name, content, fd = rng.choice(held)
    else:
        name, content = rng.choice(files)
        fd = -1
    at = rng.randrange(max(1, len(content)))
    size = rng.randint(1, 100_000)
    try:
        own = os.open(f"{mount}/{name}", os.O_RDONLY) if fd < 0 else fd
        try:
            got = os.pread(own, size, at)
            # The next one has to come from the daemon again.
            os.posix_fadvise(own, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            if fd < 0:
                os.close(own)
    except OSError as error:
        counts[errno.errorcode[error.errno]] += 1
        return f"{errno.errorcode[error.errno]} {name} at {at}"
    if got != content[at:at + size]:
        counts["wrong"] += 1
        return f"wrong {name} at {at} size {size} got {len(got)}"
    counts["reads"] += 1
    return None


def run(number, mount, files, stop, out):
    rng = random.Random(number)
    counts = collections.Counter()
    failures, longest = [], 0.0
    held = []
    for name, content in rng.sample(files, min(3, len(files))):
        held.append((name, content, os.open(f"{mount}/{name}", os.O_RDONLY)))
    while not os.path.exists(stop):
        begin = time.monotonic()
        failure = read(rng, mount, files, held, counts)
        longest = max(longest, time.monotonic() - begin)
        if failure:
            failures.append(failure)
        time.sleep(0.2)
    os.write(out, (json.dumps([counts, failures[:3], longest]) + "\n").encode())


def main():
    truth, mount, readers, stop = sys.argv[1:]
    files = []
    for directory, _, names in os.walk(truth):
        for name in names:
            path = os.path.join(directory, name)
            if os.path.isfile(path) and not os.path.islink(path) and os.path.getsize(path):
                with open(path, "rb") as file:
                    files.append((os.path.relpath(path, truth), file.read()))
    files.sort()
    source, out = os.pipe()
    for number in range(int(readers)):
        if os.fork() == 0:
            os.close(source)
            status = 1
            try:
                run(number, mount, files, stop, out)
                status = 0
            finally:
                os._exit(status)
    os.close(out)
    counts, failures, longest = collections.Counter(), [], 0.0
    ended = 0
    with os.fdopen(source) as lines:
        for line in lines:
            some, few, slowest = json.loads(line)
            counts.update(some)
            failures += few
            longest = max(longest, slowest)
            ended += 1
    for _ in range(int(readers)):
        os.wait()
    print(json.dumps({"readers": ended, **counts, "longest_ms": round(longest * 1000), "first": failures[:5]}))
    sound = ended == int(readers) and set(counts) <= {"reads"} and counts["reads"] > 0
    sys.exit(0 if sound else 1)


if __name__ == "__main__":
    main()
