#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Damages files of a store, the same way each time, and reads trees whole.

  damage.py flip FILE COUNT SEED            turns single bits
  damage.py zero FILE BEGIN LENGTH          as pages that never got to the disk
  damage.py noise FILE BEGIN LENGTH SEED
  damage.py keep-times COMMAND...           any of these, and the file's times are as before
  damage.py read EXPECTED ACTUAL            every name and byte, but device nodes: prints what differs, and what fails
"""
import os
import random
import stat
import sys


def flip(path, count, seed):
    dice = random.Random(int(seed))
    size = os.path.getsize(path)
    with open(path, "r+b") as file:
        for _ in range(int(count)):
            at = dice.randrange(size)
            file.seek(at)
            byte = file.read(1)[0] ^ (1 << dice.randrange(8))
            file.seek(at)
            file.write(bytes([byte]))


def overwrite(path, begin, content):
    with open(path, "r+b") as file:
        file.seek(int(begin))
        file.write(content)


def read(expected, actual):
    wrong, failed, count = [], [], 0
    for folder, directories, files in os.walk(expected):
        for name in directories + files:
            want = os.path.join(folder, name)
            have = actual + want[len(expected):]
            count += 1
            try:
                a, b = os.lstat(want), os.lstat(have)
                device = stat.S_ISCHR(a.st_mode) or stat.S_ISBLK(a.st_mode)
                if device and stat.S_IFMT(a.st_mode) != stat.S_IFMT(b.st_mode):
                    continue  # a tree that is not proven shows no devices (docs/security.md)
                if (a.st_mode, a.st_uid, a.st_gid, a.st_mtime_ns) != (b.st_mode, b.st_uid, b.st_gid, b.st_mtime_ns):
                    wrong.append(have)
                elif stat.S_ISLNK(a.st_mode):
                    if os.readlink(want) != os.readlink(have):
                        wrong.append(have)
                elif stat.S_ISREG(a.st_mode):
                    with open(want, "rb") as one, open(have, "rb") as other:
                        if a.st_size != b.st_size or one.read() != other.read():
                            wrong.append(have)
            except OSError as error:
                failed.append(f"{have}: {error.strerror}")
    print(f"names={count} wrong={len(wrong)} failed={len(failed)}", *wrong[:3], *failed[:3])
    return 1 if wrong else 2 if failed or not count else 0


def run(verb, *args):
    if verb == "flip":
        flip(*args)
    elif verb == "zero":
        overwrite(args[0], args[1], bytes(int(args[2])))
    elif verb == "noise":
        overwrite(args[0], args[1], random.Random(int(args[3])).randbytes(int(args[2])))
    elif verb == "keep-times":
        before = os.stat(args[1])
        run(*args)
        os.utime(args[1], ns=(before.st_atime_ns, before.st_mtime_ns))
    elif verb == "read":
        return read(*args)
    else:
        sys.exit(__doc__)
    return 0


sys.exit(run(*sys.argv[1:]))
