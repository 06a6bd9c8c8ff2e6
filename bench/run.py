#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Compares imagefs with eager peers on one machine, from one registry, in one run.

bench/run.py --imagefs BINARY --tools DIR --work DIR [--only PART,PART] [--reps N] [--quick]

Parts: cold, storm, lazy, peers, big, runtime, store, present, mounts, rss, index, million, decode, restart; peers and big run
only by name. peers builds what it compares with (bench/peers.sh). Every cold repetition has a fresh store and a fresh daemon on either side; the registry's files are in the page cache for all. Prints a table
and writes WORK/results.json. Needs root.
"""
import argparse
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time

import big_file
import first_line
import images
import lazy_peers
import present
import restart
import runtime
from process import Daemon, cpu_of, mounts_below, status_of, timed, wait_for

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.path.dirname(HERE)
TARGETS = {  # name: (target, "max" or "min")
    "cold small, x faster than containerd 1.6": (5.0, "min"), "cold small, x faster than podman": (5.0, "min"),
    "cold small, x faster than containerd 2 erofs": (4.0, "min"),
    "cold large, x faster than containerd 1.6": (5.0, "min"), "cold large, x faster than podman": (5.0, "min"),
    "cold large, x faster than containerd 2 erofs": (4.0, "min"),
    "storm of 20 against one": (1.15, "max"), "mount from the store, ms": (50, "max"),
    "warm read, imagefs fuse against ext4": (2.0, "max"), "warm stat, imagefs fuse against ext4": (1.3, "max"),
    "warm read, imagefs kernel against ext4": (1.15, "max"), "warm stat, imagefs kernel against ext4": (1.15, "max"),
    "warm large file, imagefs kernel against ext4": (1.15, "max"),
    "cold find, containerd 1.6 against imagefs kernel": (2.0, "min"),
    "cold find, containerd 2 erofs against imagefs kernel": (1.0, "min"),
    "a further mount, kernel, ms": (15, "max"), "1,000 mounts of 50 images, kernel, s": (15, "max"),
    "start after a kill, 1000 FUSE sessions taken over, ms": (1000, "max"),
    "start after a kill, 1000 kernel mounts, ms": (1000, "max"), "start after a kill, 10000 snapshots, ms": (1000, "max"),
    "RSS with 50 images, MiB": (64, "max"), "index bytes an entry beside names": (130, "max"),
    "RSS with 1,000,000 files, MiB": (64, "max"), "layer stage against igzip alone": (0.8, "min"),
    # Of a lazy peer on this kind of machine: 2.4 s and 3.9 s with a copy of the image made for it.
    "lazy small, python3 imports, 100 Mbit/s: ready, s": (2.4, "max"), "lazy large, python3 imports, 100 Mbit/s: ready, s": (3.9, "max"),
    "lazy large, python3 imports, 100 Mbit/s: of containerd 1.6": (0.1, "max"),
    "lazy small, python3 imports, 100 Mbit/s: with profile / time of the link": (1.3, "max"),
    "lazy large, python3 imports, 100 Mbit/s: with profile / time of the link": (1.3, "max"),
    "lazy small, python3 imports, 100 Mbit/s: fetched / needed": (1.5, "max"),
    "lazy large, python3 imports, 100 Mbit/s: fetched / needed": (1.5, "max"),
    "lazy small, python3 imports, loopback: of our own full pass": (1.0, "max"),
    "lazy large, python3 imports, loopback: of our own full pass": (1.0, "max"),
    "everything read, loopback: of our own full pass": (1.0, "max"), "everything read, 100 Mbit/s: of our own full pass": (1.0, "max"),
    "big, stored: dd, lazy, of curl": (1.1, "max"), "big, gzip: dd, lazy, of full pass, dd": (1.1, "max"),
    "big, zstd: dd, lazy, of full pass, dd": (1.1, "max"),
    **{f"{size}, 20 CRI pulls, containerd {version}: against one": (1.2, "max") for size in ("small", "large") for version in ("1.6", "2.1")},
    **{f"{size}, 20 CRI pulls, containerd {version}: x faster than overlayfs": (5.0, "min")
       for size in ("small", "large") for version in ("1.6", "2.1")},
    **{f"{size}, {n} CRI pulls, containerd {version}: layers sent, times": (1.0, "max")
       for size in ("small", "large") for version in ("1.6", "2.1") for n in (1, 20)},
    **{f"{size}, a CRI pull with a published index, containerd {version}, ms": (300, "max")
       for size in ("small", "large") for version in ("1.6", "2.1")},
    **{f"container start, {what}, containerd {version}, imagefs against overlayfs": (1.0, "max")
       for what in ("sh", "python3 imports") for version in ("1.6", "2.1")},
    "500 snapshots listed, ms": (50, "max"),
    **{f"{method}, {state} daemon, p99 ms": (10, "max") for method in ("Commit", "Update") for state in ("quiet", "busy")},
    "index share of small, %": (3.0, "max"), "index share of large, %": (3.0, "max"),
}


class Registry(Daemon):
    def __init__(self, work):
        self.dir = work + "/registry"
        os.makedirs(self.dir, exist_ok=True)
        with open(self.dir + "/config.yml", "w") as f:
            f.write("version: 0.1\nlog: {level: info, accesslog: {disabled: false}}\n"
                    f"storage: {{filesystem: {{rootdirectory: {self.dir}/data}}}}\nhttp: {{addr: '127.0.0.1:0'}}\n")
        super().__init__(["docker-registry", "serve", self.dir + "/config.yml"], self.dir + "/log")
        wait_for(lambda: b"listening on" in open(self.dir + "/log", "rb").read(), 20, "start of the registry")
        text = open(self.dir + "/log").read()
        self.host = text.split("listening on ")[1].split('"')[0].split()[0]

    def push(self, info, name, tag="latest", source_tag="latest"):
        subprocess.run([SOURCE + "/tests/lib/oci.py", "push", f"{info['layout']}:{source_tag}", f"{self.host}/bench/{name}:{tag}"],
                       check=True)
        return f"{self.host}/bench/{name}:{tag}"


class Imagefs:
    name = "imagefs"

    def __init__(self, binary, work):
        self.binary, self.work = binary, work + "/imagefs"

    def command(self, *args):
        return [self.binary, "--root", self.work + "/root", "--run", self.work + "/run", *args]

    def call(self, *args):
        return subprocess.run(self.command(*args), check=True, capture_output=True, text=True).stdout

    def status(self):
        return json.loads(self.call("status", "--json"))

    def reset(self):
        if os.path.exists(self.work):
            subprocess.run(self.command("stop", "--unmount"), capture_output=True)
            for mount in mounts_below(self.work):
                subprocess.run(["umount", "-l", mount])
            shutil.rmtree(self.work)
        os.makedirs(self.work + "/m")

    def directory(self, name):
        path = f"{self.work}/m/{name}"
        os.makedirs(path, exist_ok=True)
        return path

    def cold(self, ref):
        self.reset()
        seconds, cpu, rss = timed(self.command("mount", "-q", ref, self.directory("cold")))
        begin = time.monotonic()
        pid = self.status()["pid"]
        result = {"seconds": seconds, "cpu": cpu + cpu_of(pid), "rss": status_of(pid, "VmHWM"), "rss_cli": rss}

        def durable():
            return all(l["state"] == "complete" for l in self.status()["layers"])
        wait_for(durable, 120, "durability")
        result["durable_seconds"] = seconds + time.monotonic() - begin
        self.reset()
        return result


class Containerd:
    def __init__(self, work, name, containerd, ctr, config, pull, path=None):
        self.name, self.containerd, self.ctr, self.config, self.pull = name, containerd, ctr, config, pull
        self.work = f"{work}/{name.replace(' ', '-')}"
        self.env = dict(os.environ, PATH=(path + ":" if path else "") + os.environ["PATH"])

    def clean(self):
        for mount in mounts_below(self.work):
            subprocess.run(["umount", "-l", mount])
        subprocess.run(f"find {self.work} -name '*.erofs' -o -name .erofslayer -o -type d -prune 2>/dev/null | xargs -r chattr -i 2>/dev/null",
                       shell=True)
        shutil.rmtree(self.work, ignore_errors=True)

    def start(self):
        self.clean()
        os.makedirs(self.work)
        with open(self.work + "/config.toml", "w") as f:
            f.write(self.config.replace("@", self.work))
        daemon = Daemon([self.containerd, "-c", self.work + "/config.toml"], self.work + "/log", self.env)
        wait_for(lambda: subprocess.run(self.call("version"), capture_output=True).returncode == 0, 20, "start of containerd")
        return daemon

    def call(self, *args):
        return [self.ctr, "-a", self.work + "/sock", *args]

    def mounted(self, ref):
        """Pulls and mounts the image; its directory, and what ends all that."""
        daemon = self.start()

        def end():
            for mount in mounts_below(self.work):
                subprocess.run(["umount", "-l", mount])
            daemon.stop()
            self.clean()
        try:
            subprocess.run(self.call("image", "pull", "--plain-http", *self.pull, ref), check=True, capture_output=True)
            target = self.work + "/shown"
            os.makedirs(target)
            subprocess.run(self.call("image", "mount", *self.pull, ref, target), check=True, capture_output=True)
            if not os.path.exists(target + "/usr"):
                raise OSError("nothing is in its mount")
        except BaseException:
            end()
            raise
        return target, end

    def cold(self, ref):
        daemon = self.start()
        try:
            before = cpu_of(daemon.process.pid)
            seconds, cpu, _ = timed(self.call("image", "pull", "--plain-http", *self.pull, ref))
            result = {"seconds": seconds, "cpu": cpu + cpu_of(daemon.process.pid) - before,
                      "rss": status_of(daemon.process.pid, "VmHWM")}
        finally:
            daemon.stop()
            self.clean()
        return result


class Podman:
    name = "podman"

    def __init__(self, work):
        self.work = work + "/podman"

    def clean(self):
        for mount in mounts_below(self.work):
            subprocess.run(["umount", "-l", mount])
        shutil.rmtree(self.work, ignore_errors=True)

    def cold(self, ref):
        self.clean()
        os.makedirs(self.work)
        with open(self.work + "/storage.conf", "w") as f:
            f.write(f'[storage]\ndriver = "overlay"\ngraphroot = "{self.work}/graph"\nrunroot = "{self.work}/run"\n')
        env = dict(os.environ, CONTAINERS_STORAGE_CONF=self.work + "/storage.conf")
        seconds, cpu, rss = timed(["podman", "--cgroup-manager", "cgroupfs", "--events-backend", "none", "--tmpdir",
                                   self.work + "/tmp", "pull", "-q", "--tls-verify=false", ref], env=env)
        self.clean()
        return {"seconds": seconds, "cpu": cpu, "rss": rss}


CONTAINERD1 = """version = 2
root = "@/root"
state = "@/state"
disabled_plugins = ["io.containerd.grpc.v1.cri"]
[grpc]
  address = "@/sock"
[ttrpc]
  address = "@/ttrpc"
[plugins."io.containerd.internal.v1.opt"]
  path = "@/opt"
"""
CONTAINERD2 = """version = 3
root = "@/root"
state = "@/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.cri.v1.images", "io.containerd.cri.v1.runtime", "io.containerd.nri.v1.nri"]
[grpc]
  address = "@/sock"
[ttrpc]
  address = "@/ttrpc"
[plugins."io.containerd.internal.v1.opt"]
  path = "@/opt"
[plugins."io.containerd.service.v1.diff-service"]
  default = ["erofs", "walking"]
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
  platform = "linux"
  snapshotter = "erofs"
  differ = "erofs"
"""


def peers(work):
    found = []
    if shutil.which("containerd"):
        found.append(Containerd(work, "containerd 1.6", "containerd", "ctr", CONTAINERD1, []))
    if shutil.which("podman"):
        found.append(Podman(work))
    unpacked = SOURCE + "/build/peers"
    try:
        subprocess.run([SOURCE + "/scripts/unpack.sh", "sid", unpacked + "/containerd", "containerd"], check=True, timeout=600)
        path = runtime.erofs_tools()
        binaries = unpacked + "/containerd/usr/bin/"
        found.append(Containerd(work, "containerd 2 erofs", binaries + "containerd", binaries + "ctr", CONTAINERD2,
                                ["--snapshotter", "erofs"], path))
    except (subprocess.SubprocessError, OSError) as error:
        print(f"bench: no containerd 2 with EROFS here: {error}", flush=True)
    return found


class Bench:
    def __init__(self, args):
        self.args = args
        self.work = os.path.abspath(args.work)
        os.makedirs(self.work, exist_ok=True)
        self.registry = Registry(self.work)
        self.imagefs = Imagefs(os.path.abspath(args.imagefs), self.work)
        self.tools = os.path.abspath(args.tools)
        self.infos, self.refs = {}, {}
        self.found = None
        self.results = {"machine": {"cpus": os.cpu_count(), "kernel": os.uname().release,
                                    "load_before": os.getloadavg()[0]}, "summary": {}}

    def image(self, name):
        if name not in self.refs:
            self.infos[name] = images.million_image(self.work) if name == "million" else images.package_image(self.work, name)
            self.refs[name] = self.registry.push(self.infos[name], name)
            # Everybody reads the registry's files from the page cache.
            subprocess.run(f"cat {self.registry.dir}/data/docker/registry/v2/blobs/sha256/*/*/data >/dev/null", shell=True)
        return self.refs[name]

    def peers(self):
        if self.found is None:
            self.found = peers(self.work)
        return self.found

    def put(self, name, value):
        self.results["summary"][name] = round(value, 3)

    def part_cold(self):
        table = []
        for size in ("small",) if self.args.quick else ("small", "large"):
            ref, info = self.image(size), self.infos[size]
            rows = {}
            systems = [self.imagefs] + self.peers()
            # Interleaved, so that a slow minute of the machine hits all alike.
            for rep in range(self.args.reps):
                for system in systems:
                    rows.setdefault(system.name, []).append(system.cold(ref))
                    print(f"  {size} #{rep + 1} {system.name}: {rows[system.name][-1]['seconds']:.2f} s", flush=True)
            self.results[f"cold {size}"] = {"blob_bytes": info["blob_bytes"], "tar_bytes": info["tar_bytes"],
                                            "layers": len(info["layers"]), "runs": rows}
            ours = statistics.median(r["seconds"] for r in rows["imagefs"])
            for name, runs in rows.items():
                middle = {k: statistics.median(r[k] for r in runs) for k in runs[0]}
                table.append([f"{size}, {info['blob_bytes'] / 1e6:.0f} MB", name, f"{middle['seconds']:.2f}",
                              f"{info['tar_bytes'] / 1e6 / middle['seconds']:.0f}", f"{middle['cpu']:.2f}", f"{middle['rss']:.0f}",
                              f"{middle['seconds'] / ours:.1f}x"])
                if name != "imagefs":
                    self.put(f"cold {size}, x faster than {name}", middle["seconds"] / ours)
                else:
                    self.put(f"cold {size}, seconds until durable", middle["durable_seconds"])
                    self.put(f"cold {size}, MB/s of tar", info["tar_bytes"] / 1e6 / middle["seconds"])
        show(["cold mount or pull", "system", "s", "tar MB/s", "CPU s", "peak MiB", "of imagefs"], table)

    def part_storm(self):
        ref = self.image("small")
        once, twenty = [], []
        for _ in range(self.args.reps):
            once.append(self.imagefs.cold(ref)["seconds"])
            self.imagefs.reset()
            directories = [self.imagefs.directory(f"s{i}") for i in range(20)]
            begin = time.monotonic()
            running = [subprocess.Popen(self.imagefs.command("mount", "-q", ref, d), stdout=subprocess.DEVNULL) for d in directories]
            if any(p.wait() for p in running):
                raise SystemExit("bench: a mount of the storm failed")
            twenty.append(time.monotonic() - begin)
        self.results["storm"] = {"one": once, "twenty": twenty}
        self.put("storm of 20 against one", statistics.median(twenty) / statistics.median(once))
        show(["storm", "s"], [["1 mount", f"{statistics.median(once):.2f}"], ["20 mounts at once", f"{statistics.median(twenty):.2f}"]])
        self.imagefs.reset()

    def part_store(self):
        ref = self.image("small")
        self.imagefs.reset()
        self.imagefs.call("pull", "-q", ref)
        times = {"first": [], "second of the same image": []}
        for _ in range(10):
            times["first"].append(timed(self.imagefs.command("mount", "-q", ref, self.imagefs.directory("a")))[0])
            times["second of the same image"].append(timed(self.imagefs.command("mount", "-q", ref, self.imagefs.directory("b")))[0])
            self.imagefs.call("umount", "--all")
        times["version (start of the command)"] = [timed(self.imagefs.command("--version"))[0] for _ in range(10)]
        times["ls (start, and one call)"] = [timed(self.imagefs.command("ls"))[0] for _ in range(10)]
        self.results["store"] = times
        self.put("mount from the store, ms", statistics.median(times["first"]) * 1000)
        show(["mount of an image in the store", "ms"], [[k, f"{statistics.median(v) * 1000:.1f}"] for k, v in times.items()])
        self.imagefs.reset()

    def part_present(self):
        present.part_present(self, show)
        find = self.results["present"]["cold find"]
        for peer in find:
            if peer.startswith("containerd"):
                self.put(f"cold find, {peer} against imagefs kernel", find[peer] / find["imagefs kernel"])

    def part_lazy(self):
        first_line.part_lazy(self, show)

    def part_peers(self):
        lazy_peers.part_peers(self, show)

    def part_big(self):
        big_file.part_big(self, show)

    def part_runtime(self):
        runtime.part_runtime(self, show)

    def part_mounts(self):
        present.part_mounts(self, show)

    def part_rss(self):
        ref = self.image("small")
        count = 50
        images.variants(self.work, self.infos["small"], count)
        self.imagefs.reset()
        for i in range(count):
            self.registry.push(self.infos["small"], "small", f"v{i}", f"v{i}")
            self.imagefs.call("mount", "-q", ref.rpartition(":")[0] + f":v{i}", self.imagefs.directory(f"v{i}"))
        pid = self.imagefs.status()["pid"]
        idle = {k: status_of(pid, k) for k in ("VmRSS", "RssAnon", "RssFile", "VmHWM")}
        subprocess.run(f"find {self.imagefs.work}/m -xdev -type f -newermt 2100-01-01; find {self.imagefs.work}/m >/dev/null",
                       shell=True, stdout=subprocess.DEVNULL)
        walked = {k: status_of(pid, k) for k in ("VmRSS", "RssAnon", "RssFile", "VmHWM")}
        self.results["rss"] = {"mounted": idle, "all walked": walked}
        self.put("RSS with 50 images, MiB", idle["VmRSS"])
        self.put("RSS with 50 images, all walked, MiB", walked["VmRSS"])
        show(["daemon with 50 images", "RSS", "anonymous", "of files", "peak"],
             [[name] + [f"{v[k]:.1f}" for k in ("VmRSS", "RssAnon", "RssFile", "VmHWM")] for name, v in self.results["rss"].items()])
        self.imagefs.reset()

    def measure_index(self, name):
        """Entries, bytes of their names, and bytes of the chain's index of a mounted image."""
        mount = self.imagefs.directory(name)
        entries = names = 0
        for _, dirs, files in os.walk(os.fsencode(mount)):
            entries += len(dirs) + len(files)
            names += sum(map(len, dirs)) + sum(map(len, files))
        size = max(os.path.getsize(os.path.join(r, f)) for r, _, fs in os.walk(self.imagefs.work + "/root/chains") for f in fs)
        return {"entries": entries, "name_bytes": names, "index_bytes": size, "bytes_an_entry": size / entries,
                "beside_names": (size - names) / entries}

    def part_index(self):
        ref = self.image("small")
        self.imagefs.reset()
        self.imagefs.call("mount", "-q", ref, self.imagefs.directory("small"))
        self.results["index"] = self.measure_index("small")
        self.put("index bytes an entry beside names", self.results["index"]["beside_names"])
        show(["index of the chain", "entries", "bytes", "an entry", "beside names"],
             [["small"] + [f"{self.results['index'][k]:.0f}" for k in ("entries", "index_bytes", "bytes_an_entry", "beside_names")]])
        self.imagefs.reset()

    def part_million(self):
        ref = self.image("million")
        self.imagefs.reset()
        mount = self.imagefs.directory("million")
        seconds, cpu, _ = timed(self.imagefs.command("mount", "-q", ref, mount))
        pid = self.imagefs.status()["pid"]
        peak = status_of(pid, "VmHWM")
        # What stays, once the making of the index is over: a daemon that only serves it.
        self.imagefs.call("stop")
        wait_for(lambda: not os.path.exists(f"/proc/{pid}") or status_of(pid, "VmRSS") == 0, 20, "end of the daemon")
        self.imagefs.call("images")
        wait_for(lambda: os.path.ismount(mount), 20, "recovery of the mount")
        pid = self.imagefs.status()["pid"]
        serving = status_of(pid, "VmRSS")
        begin = time.monotonic()
        found = subprocess.check_output(f"find {mount} | wc -l", shell=True, text=True).strip()
        walk = time.monotonic() - begin
        walked = {k: status_of(pid, k) for k in ("VmRSS", "RssAnon", "RssFile")}
        info = self.measure_index("million")
        self.results["million"] = {"seconds": seconds, "peak_making": peak, "serving": serving, "walked": walked, "find_seconds": walk,
                                   "found": int(found), "index": info}
        self.put("RSS with 1,000,000 files, MiB", serving)
        self.put("1,000,000 files, peak MiB while made", peak)
        self.put("1,000,000 files, RSS all walked, MiB", walked["VmRSS"])
        show(["1,000,000 files", ""], [["cold mount, s", f"{seconds:.1f}"], ["peak while made, MiB", f"{peak:.0f}"],
                                       ["RSS serving, MiB", f"{serving:.1f}"], ["RSS after find, MiB", f"{walked['VmRSS']:.1f}"],
                                       ["find, s", f"{walk:.1f}"], ["index bytes an entry", f"{info['bytes_an_entry']:.0f}"]])
        self.imagefs.reset()

    def part_decode(self):
        self.image("small")
        layer = max(self.infos["small"]["layers"], key=lambda l: l["size"])
        text = subprocess.check_output([self.tools + "/bench_decode", f"{self.infos['small']['layout']}/blobs/sha256/{layer['digest'][7:]}",
                                        layer["diff_id"], self.work + "/decoded"], text=True)
        result = json.loads(text)
        shutil.rmtree(self.work + "/decoded", ignore_errors=True)
        self.results["decode"] = result
        self.put("layer stage against igzip alone", result["layer"] / result["igzip"])
        self.put("decoder against igzip alone", result["stage"] / result["igzip"])
        show(["making a layer, largest blob", "MB/s of tar"], [[k, result[k]] for k in ("igzip", "stage", "sha256", "layer")])

    def part_restart(self):
        sessions, snapshots = (100, 500) if self.args.quick else (1000, 10_000)
        found = {}
        for what, measure in (
                ("fuse", lambda work: restart.sessions(self.imagefs.binary, work, sessions, "fuse")),
                ("kernel", lambda work: restart.sessions(self.imagefs.binary, work, sessions, "kernel")),
                ("snapshots", lambda work: restart.snapshots(
                    self.imagefs.binary, work, snapshots,
                    lambda socket, count: runtime.Snapshots(self.work, socket).lifecycle("restart", count)))):
            work = f"{self.work}/restart-{what}"
            os.makedirs(work)
            found[what] = measure(work)
            shutil.rmtree(work)
        self.results["restart"] = found
        self.put(f"start after a kill, {sessions} FUSE sessions taken over, ms", found["fuse"]["ready_ms"])
        self.put(f"start after a kill, {sessions} kernel mounts, ms", found["kernel"]["ready_ms"])
        self.put(f"start after a kill, {snapshots} snapshots, ms", found["snapshots"]["ready_ms"])
        show(["start after a kill", "answers, ms", "first read, ms"],
             [[what, f"{ms['ready_ms']:.0f}", f"{ms['read_ms']:.0f}" if "read_ms" in ms else ""] for what, ms in found.items()])

    def run(self):
        parts = ["cold", "storm", "lazy", "runtime", "store", "present", "mounts", "rss", "index", "million", "decode", "restart"]
        if self.args.only:
            parts = self.args.only.split(",")
        elif self.args.quick:
            parts.remove("million")
        try:
            for part in parts:
                getattr(self, "part_" + part)()
        finally:
            self.imagefs.reset()
            self.registry.stop()
            self.results["machine"]["load_after"] = os.getloadavg()[0]
            with open(self.work + "/results.json", "w") as f:
                json.dump(self.results, f, indent=1)
        rows = []
        for name, value in self.results["summary"].items():
            target = TARGETS.get(name)
            met = "" if target is None else "met" if (value <= target[0] if target[1] == "max" else value >= target[0]) else "MISSED"
            rows.append([name, f"{value:g}", "" if target is None else f"{'<=' if target[1] == 'max' else '>='} {target[0]:g}", met])
        show(["figure", "value", "target", ""], rows)
        print(f"bench: all figures are in {self.work}/results.json")


def show(head, rows):
    rows = [[str(c) for c in row] for row in [head] + rows]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
    print()
    for n, row in enumerate(rows):
        print("| " + " | ".join(c.ljust(w) if i == 0 else c.rjust(w) for i, (c, w) in enumerate(zip(row, widths))) + " |")
        if n == 0:
            print("|" + "|".join("-" * (w + 2) for w in widths) + "|")
    print(flush=True)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--imagefs", required=True)
    parser.add_argument("--tools", required=True)
    parser.add_argument("--work", required=True)
    parser.add_argument("--only")
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--quick", action="store_true")
    args = parser.parse_args()
    if os.geteuid() != 0:
        raise SystemExit("bench: needs root, for the peers and for dropping caches")
    Bench(args).run()


if __name__ == "__main__":
    main()
