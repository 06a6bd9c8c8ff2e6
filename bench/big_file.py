# SPDX-License-Identifier: Apache-2.0
"""The part `big`: one file of a gigabyte in a layer that is shown before its bytes are here, read by
programs of several habits, against curl for the bytes of the layer and against our own full pass.

The line is the machine's loopback device; for another one, run the benchmark in a network namespace:
  unshare -n sh -c 'ip link set lo up; tc qdisc add dev lo root tbf rate 1gbit burst 512kb latency 50ms; bench/run.py ...'
"""
import json
import mmap
import os
import random
import statistics
import subprocess
import time

import images

FORMS = ["gzip", "stored", "zstd", "zstd-frame"]
FILE = "/models/weights.bin"
PAGE = 4096


def by_cat(path):
    subprocess.run(["dd", f"if={path}", "of=/dev/null", "bs=1M", "status=none"], check=True)


def by_mmap(path, stride=PAGE, block=PAGE):
    """Touches each page of a block of every `stride`, as programs do that map their data."""
    with open(path, "rb") as f, mmap.mmap(f.fileno(), 0, prot=mmap.PROT_READ) as m:
        total = 0
        for at in range(0, len(m), stride):
            for page in range(at, min(at + block, len(m)), PAGE):
                total += m[page]
    return total


def by_strides(path):
    by_mmap(path, 4 << 20, 1 << 20)


def first_bytes(path, count=20):
    """Seconds for 4 KiB at a random place, median."""
    took, places = [], random.Random(1)
    with open(path, "rb", buffering=0) as f:
        for _ in range(count):
            at = places.randrange(os.path.getsize(path) // PAGE) * PAGE
            begin = time.monotonic()
            os.pread(f.fileno(), PAGE, at)
            took.append(time.monotonic() - begin)
    return statistics.median(took)


READERS = {"dd": by_cat, "mmap": by_mmap, "mmap, a quarter": by_strides}


def run(bench, ref, reader, *options):
    imagefs = bench.imagefs
    imagefs.reset()
    tree = imagefs.directory("big")
    begin = time.monotonic()
    imagefs.call("mount", "-q", *options, ref, tree)
    mounted = time.monotonic()
    reader(tree + FILE)
    ready = time.monotonic()
    counters = json.loads(imagefs.call("status", "--json"))["counters"]
    return {"seconds": ready - begin, "mounted": mounted - begin, "requests": counters["fill_requests"],
            "bytes": counters["fill_bytes_fetched"]}


def curl(bench, info):
    begin = time.monotonic()
    subprocess.run(["curl", "-sf", "-o", "/dev/null",
                    f"http://{bench.registry.host}/v2/bench/{info['name']}/blobs/{info['layers'][0]['digest']}"], check=True)
    return {"seconds": time.monotonic() - begin, "mounted": 0, "requests": 1, "bytes": info["blob_bytes"]}


def part_big(bench, show):
    table = []
    for form in FORMS[:1] if bench.args.quick else FORMS:
        info = images.big_image(bench.work, form, 128 if bench.args.quick else 1024)
        ref = bench.registry.push(info, info["name"])
        bench.imagefs.reset()
        bench.imagefs.call("index", "-q", "--push", ref)
        arms = {"curl": lambda info=info: curl(bench, info),
                "full pass, dd": lambda ref=ref: run(bench, ref, by_cat, "--eager")}
        for name, reader in READERS.items():
            arms["lazy, " + name] = lambda ref=ref, reader=reader: run(bench, ref, reader)
        rows, first = {}, []
        for _ in range(bench.args.reps):
            for name, arm in arms.items():
                rows.setdefault(name, []).append(arm())
                print(f"  big, {form}, {name}: {rows[name][-1]['seconds']:.2f} s", flush=True)
            run(bench, ref, lambda path: first.append(first_bytes(path)))
        middle = {name: {k: statistics.median(r[k] for r in runs) for k in runs[0]} for name, runs in rows.items()}
        bench.results[f"big {form}"] = {"runs": rows, "first_bytes": first}
        for name, m in middle.items():
            table.append([f"{form}, {info['blob_bytes'] / 1e6:.0f} MB", name, f"{m['seconds']:.2f}",
                          f"{info['file_bytes'] / 1e6 / m['seconds']:.0f}", f"{m['requests']:.0f}", f"{m['bytes'] / 1e6:.0f}"])
        table.append([form, "4 KiB at a random place", f"{statistics.median(first):.4f}", "", "", ""])
        against = "curl" if form == "stored" else "full pass, dd"
        bench.put(f"big, {form}: dd, lazy, of {against}", middle["lazy, dd"]["seconds"] / middle[against]["seconds"])
        bench.put(f"big, {form}: 4 KiB at a random place, ms", statistics.median(first) * 1000)
    show(["a file of a gigabyte", "reader", "s", "MB/s of the file", "requests", "MB fetched"], table)
    bench.imagefs.reset()
