#!/usr/bin/env python3
"""Turns one bit in a record of a store's database, whose daemon does not run.

turn_record.py DB PREFIX: of the first record found whose key begins so. Says which file; status 1: none.
"""
import glob
import sys


def main(db, prefix):
    needle = prefix.encode()
    for path in sorted(glob.glob(db + "/*.log") + glob.glob(db + "/*.ldb")):
        data = bytearray(open(path, "rb").read())
        at = data.rfind(needle)  # the newest
        if at < 0:
            continue
        # Values are JSON and longer than this; what follows the key is its length and the text.
        brace = data.find(b"{", at)
        if brace < 0 or brace > at + 400:
            continue
        data[brace + 5] ^= 1
        open(path, "wb").write(data)
        print(path)
        return 0
    return 1


sys.exit(main(*sys.argv[1:]))
