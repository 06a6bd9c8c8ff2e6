#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Turns one bit in a record of a store's database, whose daemon does not run.

turn_record.py DB PREFIX: of the newest record whose key begins so. Prints the file; status 1: there is none.
"""
import glob
import sys


def turn(data, prefix):
    at = data.rfind(prefix)
    while at >= 0:
        # What follows a key is the length of the value and the value, which is JSON here.
        brace = data.find(b"{", at)
        if 0 <= brace <= at + 400:
            data[brace + 5] ^= 1
            return True
        at = data.rfind(prefix, 0, at)
    return False


def main(db, prefix):
    for path in sorted(glob.glob(db + "/*.log") + glob.glob(db + "/*.ldb"), reverse=True):
        data = bytearray(open(path, "rb").read())
        # In a table a key leaves out what it shares with the one before.
        if any(turn(data, prefix[cut:].encode()) for cut in range(3)):
            open(path, "wb").write(data)
            print(path)
            return 0
    return 1


sys.exit(main(*sys.argv[1:]))
