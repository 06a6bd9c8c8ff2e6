#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Judges what was asked of a registry.

  requests.py once PROXY_REQUESTS LAYOUT...  every blob of these layouts was delivered exactly once:
                                             no byte twice, none missing; prints the totals
  requests.py layers PROXY_REQUESTS LAYOUT.. the same of their layers: a configuration is asked for by each
                                             program that reads it
  requests.py count PROXY_REQUESTS REGEX     how many requests have a matching "METHOD path"
  requests.py bytes PROXY_REQUESTS [DIGEST...]  bytes of blobs that went out; of these blobs
"""
import glob
import json
import os
import re
import sys


def read(path):
    if not os.path.exists(path):
        return []
    return [json.loads(line) for line in open(path)]


def spans(requests):
    """{digest: [(begin, end)]} of the blob bytes that were really sent."""
    result = {}
    for r in requests:
        match = re.search(r"/blobs/(sha256:[0-9a-f]{64})", r["path"])
        if r["method"] != "GET" or not match or r["status"] not in (200, 206):
            continue
        begin = 0
        if r["status"] == 206:
            begin = int(re.match(r"bytes=(\d+)-", r["range"]).group(1))
        result.setdefault(match.group(1), []).append((begin, begin + r["sent"]))
    return result


def once(requests, layouts, configs=True):
    sizes, passed = {}, set()
    for layout in layouts:
        for path in glob.glob(layout + "/blobs/sha256/*"):
            raw = open(path, "rb").read() if os.path.getsize(path) < 1 << 20 else b""
            manifest = json.loads(raw) if raw[:1] == b"{" else {}
            if "layers" in manifest:
                for blob in manifest["layers"] + [manifest["config"]] * configs:
                    sizes[blob["digest"]] = blob["size"]
                passed.add(manifest["config"]["digest"])
    got, good = spans(requests), True
    for digest, size in sizes.items():
        parts = sorted(p for p in got.pop(digest, []) if p[0] < p[1])
        at = 0
        for begin, end in parts:
            if begin != at:
                print(f"{digest}: bytes {min(begin, at)}-{max(begin, at)} were asked "
                      f"{'twice' if begin < at else 'never'}: {parts}")
                good = False
            at = max(at, end)
        if at != size:
            print(f"{digest}: {at} of {size} bytes were asked: {parts}")
            good = False
    for digest in got.keys() - (set() if configs else passed):
        print(f"{digest}: asked, but of none of these images")
        good = False
    print(f"{len(sizes)} blobs, {sum(sizes.values())} bytes, {len(requests)} requests")
    return good


def main(args):
    requests = read(args[1])
    if args[0] in ("once", "layers"):
        sys.exit(0 if once(requests, args[2:], args[0] == "once") else 1)
    if args[0] == "count":
        print(sum(1 for r in requests if re.search(args[2], r["method"] + " " + r["path"])))
    elif args[0] == "bytes":
        sent = spans(requests)
        print(sum(e - b for digest in args[2:] or sent for b, e in sent.get(digest, [])))


if __name__ == "__main__":
    main(sys.argv[1:])
