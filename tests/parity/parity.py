#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Makes the same system calls on an unpacked tree and on the mount of the same image; reports what differs.

  parity.py [--mode fuse|kernel|disk] [--meta META.json] [--limit N] DISK MOUNT TOPIC...
  parity.py --list        the topics; the modules check_* have them

Each side is visited by a process of its own whose root directory is the tree, so that both make their calls
by the same paths, absolute links included, and a call that kills or hangs ends that process only. A check
notes what each call answered; the two lists are compared by call and path. A difference is accepted where
the check names that pair of answers, and says why both are right. META's "loose" directories, and the root,
are not compared by modification time. With --mode disk, MOUNT is another unpacked tree.
"""
import argparse
import faulthandler
import json
import os
import resource
import sys
import tempfile
import time
import traceback

import check_files  # noqa: F401  (the topics register themselves)
import check_rights  # noqa: F401
import check_tree  # noqa: F401
from side import SECONDS, TOPICS, Side, before_chroot, entries, in_child

ABSENT = "nothing"
MEMORY_BYTES = 4 << 30  # of a visitor, which must not take the machine with it


def one_topic(side, topic):
    side.topic, side.prefix = topic, ""
    try:
        TOPICS[topic](side)
    except Exception:  # a check that stumbles over what it finds there does not take the others with it
        side.wrong.append((topic, b"", traceback.format_exc(), "no exception"))


def visit(side, topics):
    def inside():
        faulthandler.enable()
        faulthandler.dump_traceback_later(SECONDS - 5, exit=True)  # says where, before the signal ends it
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
        before_chroot(side)
        outside = [topic for topic in topics if hasattr(TOPICS[topic], "outside")]
        for topic in outside:
            one_topic(side, topic)
        os.chroot(side.root)
        os.chdir("/")
        for topic in topics:
            if topic not in outside:
                one_topic(side, topic)
        return side.notes, side.wrong
    try:
        side.notes, side.wrong = in_child(inside)
    except ChildProcessError as error:
        raise SystemExit(f"{side.kind}: {error}")


def shown(answer):
    text = str(answer) if "Traceback" in str(answer) else repr(answer)
    return text if "Traceback" in text or len(text) <= 300 else text[:297] + "..."


def compare(disk, mount, limit):
    lines = []
    for side in (disk, mount):
        for call, path, answer, right in side.wrong:
            lines.append(f"{call} {path!r}: {shown(answer)} on the side {side.kind}, right is {shown(right)}")
    for key in sorted(disk.notes.keys() | mount.notes.keys()):
        want, _ = disk.notes.get(key, (ABSENT, ()))
        have, accept = mount.notes.get(key, (ABSENT, ()))
        if want != have and (want, have) not in accept:
            call, path = key
            if isinstance(want, dict) and isinstance(have, dict):  # only what differs of them
                keys = [k for k in sorted(want.keys() | have.keys()) if want.get(k) != have.get(k)]
                want, have = ({k: d.get(k) for k in keys} for d in (want, have))
            lines.append(f"{call} {path!r}: {shown(want)} on the disk, {shown(have)} in the mount")
    for line in lines[:limit]:
        print("  " + line)
    if len(lines) > limit:
        print(f"  ... and {len(lines) - limit} more differences")
    return not lines


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--mode", choices=["fuse", "kernel", "disk"], default="fuse")
    parser.add_argument("--meta")
    parser.add_argument("--limit", type=int, default=40, help="of differences shown")
    parser.add_argument("--list", action="store_true")
    parser.add_argument("disk", nargs="?")
    parser.add_argument("mount", nargs="?")
    parser.add_argument("topics", nargs="*")
    options = parser.parse_args()
    if options.list:
        print("\n".join(TOPICS))
        return
    started = time.monotonic()
    loose = {b"."}
    if options.meta:
        loose |= {os.fsencode(path) for path in json.load(open(options.meta)).get("loose", [])}
    disk, mount = (os.path.realpath(os.fsencode(path)) for path in (options.disk, options.mount))
    tree = entries(disk)
    os.umask(0)
    with tempfile.TemporaryDirectory() as scratch:
        sides = [Side("disk", disk, tree, loose, scratch), Side(options.mode, mount, tree, loose, scratch)]
        for side in sides:
            visit(side, options.topics)
    good = compare(*sides, options.limit)
    print(f"{os.path.basename(options.mount)}: {' '.join(options.topics)}: {len(sides[0].notes)} answers on "
          f"{len(tree)} paths, {'equal' if good else 'different'}, {time.monotonic() - started:.1f} s")
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
