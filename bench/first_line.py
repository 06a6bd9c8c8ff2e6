# SPDX-License-Identifier: Apache-2.0
"""The part `lazy`: how long until a program inside an image prints its first line, and how many bytes
of the registry that took, over lines of several speeds; imagefs in its ways against eager peers.

Everybody speaks to the same registry through the same shaped line (tests/lib/shaper.py) in the same
run, the arms in turn. A repetition begins with an empty store and no daemon.
"""
import json
import os
import statistics
import subprocess
import sys
import time
import urllib.request

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.path.dirname(HERE)
SHAPER = SOURCE + "/tests/lib/shaper.py"

PYTHON = ["/usr/bin/python3", "-c", "import json, ssl, asyncio, http.client; print('ready')"]
CPP = ["/bin/sh", "-c", "echo '#include <iostream>' | g++ -x c++ -fsyntax-only - && echo ready"]
EVERYTHING = None  # all files are read, by a program outside: the worst case of being lazy
LINES = {"loopback": [], "1 Gbit/s": ["--rate", "1Gbit"], "100 Mbit/s": ["--rate", "100Mbit"],
         "100 Mbit/s, 20 ms": ["--rate", "100Mbit", "--rtt", "20"]}
LAZY_LINES = ["loopback", "100 Mbit/s", "100 Mbit/s, 20 ms"]
# image, what, program, lines, whether the peers run too
PROGRAMS = [("small", "python3 imports", PYTHON, LAZY_LINES, True), ("large", "python3 imports", PYTHON, ["loopback", "100 Mbit/s"], True),
            ("large", "g++ <iostream>", CPP, ["100 Mbit/s"], False), ("small", "everything", EVERYTHING, ["loopback", "100 Mbit/s"], False)]


class Line:
    """The registry behind a line."""

    def __init__(self, bench, options):
        self.dir = bench.work + "/line"
        subprocess.run(["rm", "-rf", self.dir], check=True)
        os.makedirs(self.dir)
        self.process = subprocess.Popen([sys.executable, SHAPER, "serve", bench.registry.host, self.dir, *options],
                                        stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 20
        while not os.path.exists(self.dir + "/ports"):
            if time.monotonic() > deadline:
                raise SystemExit("bench: the line did not start")
            time.sleep(0.02)
        self.host = f"127.0.0.1:{json.load(open(self.dir + '/ports'))['api']}"

    def ctl(self, *command):
        return json.loads(subprocess.run([sys.executable, SHAPER, "ctl", self.dir, *command], check=True,
                                         capture_output=True, text=True).stdout)

    def stop(self):
        self.process.terminate()
        self.process.wait()


class Server(list):
    """A program that is ready once it answers at that address."""

    def __init__(self, url, command):
        super().__init__(command)
        self.url = url


def until_ready(process, program):
    """Until the process has written its line, or the server of it answers 200."""
    if not isinstance(program, Server):
        line = process.stdout.readline()
        if line.strip() != "ready":
            raise SystemExit(f"bench: {program[0]} said {line!r}: {process.communicate()[1][-400:]}")
        return
    deadline = time.monotonic() + 120
    while True:
        try:
            with urllib.request.urlopen(program.url, timeout=60) as answer:
                if answer.status == 200:
                    return
        except OSError:
            pass
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise SystemExit(f"bench: {program[0]} does not answer: {process.communicate()[1][-400:]}")
        time.sleep(0.002)


def run_in(tree, program):
    if program is EVERYTHING:
        subprocess.run(f"tar -C {tree} --one-file-system -cf - . | cat >/dev/null", shell=True, check=True)
        return
    process = subprocess.Popen(["chroot", tree, *program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until_ready(process, program)
    if isinstance(program, Server):
        process.terminate()
    process.communicate()


def imagefs_arm(*options, config=""):
    def run(bench, line, ref, program):
        imagefs = bench.imagefs
        imagefs.reset()
        tree = imagefs.directory("lazy")
        with open(imagefs.work + "/config.toml", "w") as f:
            f.write(config)
        line.ctl("reset")
        begin = time.monotonic()
        imagefs.call("--config", imagefs.work + "/config.toml", "mount", "-q", *options, ref, tree)
        mounted = time.monotonic()
        run_in(tree, program)
        ready = time.monotonic()
        totals = line.ctl("totals")
        result = {"mount": mounted - begin, "ready": ready - begin, "bytes": totals["sent"], "requests": totals["requests"]}
        state = json.loads(imagefs.call("status", "--json", tree))
        result["needed"] = sum(layer["blob_bytes_needed"] for layer in state["layers"])
        result["packed"] = imagefs.status()["counters"]["hot_pack_bytes"]
        return result
    return run


def containerd_arm(peer):
    def run(bench, line, ref, program):
        line.ctl("reset")
        daemon = peer.start()
        begin = time.monotonic()
        try:
            subprocess.run(peer.call("image", "pull", "--plain-http", *peer.pull, ref), check=True, capture_output=True)
            tree = peer.work + "/shown"
            os.makedirs(tree)
            subprocess.run(peer.call("image", "mount", *peer.pull, ref, tree), check=True, capture_output=True)
            mounted = time.monotonic()
            run_in(tree, program)
            ready = time.monotonic()
            totals = line.ctl("totals")
        finally:
            for line_ in reversed([l.split()[4] for l in open("/proc/self/mountinfo")]):
                if line_.startswith(peer.work + "/"):
                    subprocess.run(["umount", "-l", line_])
            daemon.stop()
            peer.clean()
        return {"mount": mounted - begin, "ready": ready - begin, "bytes": totals["sent"], "requests": totals["requests"], "needed": 0,
                "packed": 0}
    return run


def publish(bench, line, ref, program, with_profile):
    """The index of the image, made by a machine of its own; with the profile and the hot pack of one run."""
    imagefs = bench.imagefs
    imagefs.reset()
    options = []
    if with_profile:
        tree = imagefs.directory("first")
        imagefs.call("mount", "-q", ref, tree)
        run_in(tree, program)
        imagefs.call("profile", "show", ref)
        imagefs.call("umount", tree)
        options = ["--profile"]
    made = json.loads(imagefs.call("index", "-q", "--json", "--push", *options, ref))
    imagefs.reset()
    return made


def part_lazy(bench, show):
    reps = bench.args.reps
    table, results = [], {}
    for size, what, program, lines, peers in PROGRAMS:
        if bench.args.quick and size != "small":
            continue
        bench.image(size)
        for name in lines:
            line = Line(bench, LINES[name])
            try:
                ref = f"{line.host}/bench/{size}:latest"
                direct = bench.refs[size]
                arms = [("imagefs, whole", imagefs_arm("--eager"))]
                arms += [(peer.name, containerd_arm(peer)) for peer in (bench.peers() if peers else []) if hasattr(peer, "start")]
                arms.append(("imagefs, index", imagefs_arm()))
                made = publish(bench, line, direct, program, False)
                rows = {}
                for _ in range(reps):
                    for arm, run in arms:
                        rows.setdefault(arm, []).append(run(bench, line, ref, program))
                        print(f"  {size}, {what}, {name}, {arm}: {rows[arm][-1]['ready']:.2f} s", flush=True)
                made = publish(bench, line, direct, program, True)
                arms = [("imagefs, index and profile", imagefs_arm(config="[fill]\nhot_pack = false\n")),
                        ("imagefs, index, profile and pack", imagefs_arm())]
                for _ in range(reps):
                    for arm, run in arms:
                        rows.setdefault(arm, []).append(run(bench, line, ref, program))
                        print(f"  {size}, {what}, {name}, {arm}: {rows[arm][-1]['ready']:.2f} s", flush=True)
                for arm, wanted in (("imagefs, index and profile", False), ("imagefs, index, profile and pack", True)):
                    packed = [run["packed"] for run in rows[arm]]
                    if any(packed) != wanted:
                        raise SystemExit(f"bench: {arm}: {packed} bytes came with the pack")
            finally:
                line.stop()
            middle = {arm: {k: statistics.median(r[k] for r in runs) for k in runs[0]} for arm, runs in rows.items()}
            index_bytes = sum(layer["index_bytes"] for layer in made["layers"])
            blob_bytes = sum(layer["blob_bytes"] for layer in made["layers"])
            results[f"{size}, {what}, {name}"] = {"runs": rows, "index_bytes": index_bytes, "blob_bytes": blob_bytes}
            for arm, m in middle.items():
                table.append([f"{size}, {what}", name, arm, f"{m['mount']:.2f}", f"{m['ready']:.2f}", f"{m['bytes'] / 1e6:.1f}",
                              f"{m['requests']:.0f}"])
            bench.put(f"lazy {size}, {what}, {name}: ready, s", middle["imagefs, index"]["ready"])
            bench.put(f"lazy {size}, {what}, {name}: with profile, s", middle["imagefs, index and profile"]["ready"])
            bench.put(f"lazy {size}, {what}, {name}: with profile and pack, s", middle["imagefs, index, profile and pack"]["ready"])
            for arm, m in middle.items():
                if arm.startswith("containerd"):
                    bench.put(f"lazy {size}, {what}, {name}: of {arm}", middle["imagefs, index"]["ready"] / m["ready"])
            bench.put(f"lazy {size}, {what}, {name}: fetched / needed",
                      (middle["imagefs, index"]["bytes"] - index_bytes) / max(1, middle["imagefs, index"]["needed"]))
            if program is EVERYTHING:
                bench.put(f"everything read, {name}: of our own full pass",
                          middle["imagefs, index"]["ready"] / middle["imagefs, whole"]["ready"])
                continue
            bench.put(f"index share of {size}, %", 100 * index_bytes / blob_bytes)
            if name == "loopback":
                bench.put(f"lazy {size}, {what}, loopback: of our own full pass",
                          middle["imagefs, index"]["ready"] / middle["imagefs, whole"]["ready"])
            elif "20" not in name:
                # What the line needs for the bytes used alone.
                used = middle["imagefs, index"]["needed"] + index_bytes
                bench.put(f"lazy {size}, {what}, {name}: with profile / time of the link",
                          middle["imagefs, index and profile"]["ready"] / (used / 12.5e6))
    bench.results["lazy"] = results
    show(["first line", "line", "system", "mounted s", "ready s", "MB fetched", "requests"], table)
    bench.imagefs.reset()
