# SPDX-License-Identifier: Apache-2.0
"""How a mounted image reads: imagefs by kernel and by FUSE, against ext4 and what containerd mounts.

Every side shows the same image. Warm figures are medians of interleaved rounds; before each cold one
the kernel's caches are dropped. Peers are mounted once for the whole part.
"""
import json
import os
import random
import shutil
import statistics
import subprocess
import time

ROUNDS = 3


def drop_caches():
    os.sync()
    with open("/proc/sys/vm/drop_caches", "w") as f:
        f.write("3")


def cached():
    with open("/proc/meminfo") as f:
        values = dict(line.split(":") for line in f)
    return (int(values["Cached"].split()[0]) + int(values["Buffers"].split()[0])) / 1024


def seconds(command, **kw):
    begin = time.monotonic()
    subprocess.run(command, shell=True, check=True, stdout=subprocess.DEVNULL, **kw)
    return time.monotonic() - begin


def unpack(work, info):
    """The image by tar on the disk."""
    target = work + "/unpacked"
    if not os.path.exists(target + ".done"):
        shutil.rmtree(target, ignore_errors=True)
        os.makedirs(target)
        for layer in info["layers"]:
            subprocess.run(["tar", "-C", target, "--keep-directory-symlink", "--numeric-owner", "-xzf",
                            f"{info['layout']}/blobs/sha256/{layer['digest'][7:]}"], check=True)
        open(target + ".done", "w").close()
    return target


def choose(mount, other):
    """Small files, directories and the largest file, of what both trees have as regular files."""
    files, directories, sizes = [], [], []
    for root, dirs, names in os.walk(mount):
        dirs.sort()
        relative = os.path.relpath(root, mount)
        if os.path.isdir(os.path.join(other, relative)):
            directories.append(relative)
        for name in sorted(names):
            path = os.path.join(relative, name)
            there = os.path.join(other, path)
            if os.path.isfile(there) and not os.path.islink(there):
                size = os.path.getsize(there)
                sizes.append((size, path))
                if 0 < size <= 16384:
                    files.append(path)
    return files[::max(1, len(files) // 4000)][:4000], directories[:2000], max(sizes)[1]


class Sides:
    """Mounts of one image by all systems, and how to measure them."""

    def __init__(self, bench, size):
        self.bench = bench
        self.ref = bench.image(size)
        info = bench.infos[size]
        self.roots, self.undo = {}, []
        bench.imagefs.reset()
        for mode in ("kernel", "fuse"):
            directory = bench.imagefs.directory(mode)
            bench.imagefs.call("mount", "-q", "--mode", mode, self.ref, directory)
            self.roots["imagefs " + mode] = directory
        self.roots["ext4"] = unpack(bench.work, info)
        for peer in bench.peers():
            if hasattr(peer, "mounted"):
                try:
                    self.roots[peer.name], undo = peer.mounted(self.ref)
                    self.undo.append(undo)
                except (subprocess.SubprocessError, OSError) as error:
                    print(f"bench: {peer.name} does not show the image: {error}", flush=True)
        self.files, self.directories, self.large = choose(self.roots["imagefs kernel"], self.roots["ext4"])
        self.list = bench.work + "/list"

    def close(self):
        for undo in self.undo:
            undo()
        self.bench.imagefs.reset()

    def tool(self, mode, root, names, rounds):
        with open(self.list, "w") as f:
            f.write("\n".join(names) + "\n")
        out = subprocess.check_output([self.bench.tools + "/bench_files", mode, root, self.list, str(rounds)], text=True)
        return json.loads(out)["ns"]

    def warm(self, mode, names, rounds):
        """Nanoseconds a path (or, for the large file, a file), by side."""
        runs = {side: [] for side in self.roots}
        for _ in range(ROUNDS):
            for side, root in self.roots.items():
                runs[side].append(self.tool(mode, root, names, rounds))
        return {side: statistics.median(values) for side, values in runs.items()}

    def cold(self, measure):
        runs = {side: [] for side in self.roots}
        for _ in range(ROUNDS):
            for side, root in self.roots.items():
                drop_caches()
                runs[side].append(measure(root))
        return {side: statistics.median(values) for side, values in runs.items()}


def part_present(bench, show):
    sides = Sides(bench, "small")
    try:
        table = []

        def row(name, values, unit, scale, inverse=False):
            bench.results.setdefault("present", {})[name] = values
            for side in sides.roots:
                if side != "ext4":
                    ratio = values[side] / values["ext4"]
                    bench.put(f"{name}, {side} against ext4", 1 / ratio if inverse else ratio)
            table.append([name, unit] + [f"{values[side] * scale:.2f}" for side in sides.roots])
        large_bytes = os.path.getsize(os.path.join(sides.roots["ext4"], sides.large))
        row("warm stat", sides.warm("stat", sides.files, 7), "us", 1e-3)
        row("warm read", sides.warm("read", sides.files, 7), "us", 1e-3)
        row("warm readdir", sides.warm("readdir", sides.directories, 7), "us", 1e-3)
        speed = {s: large_bytes / ns for s, ns in sides.warm("read", [sides.large], 15).items()}
        row("warm large file", speed, "GB/s", 1, inverse=True)
        row("warm random 4 KiB", {s: ns / 1000 for s, ns in sides.warm("random", [sides.large], 15).items()}, "us", 1e-3)
        row("warm mmap, a page", {s: ns / (large_bytes / 4096) for s, ns in sides.warm("mmap", [sides.large], 15).items()}, "us", 1e-3)
        row("warm find", {s: statistics.median(seconds(f"find {r}") for _ in range(5)) for s, r in sides.roots.items()}, "ms", 1e3)
        row("warm ls -lR", {s: statistics.median(seconds(f"ls -lR {r}") for _ in range(3)) for s, r in sides.roots.items()}, "ms", 1e3)
        row("cold find", sides.cold(lambda r: seconds(f"find {r}")), "ms", 1e3)
        row("cold ls -lR", sides.cold(lambda r: seconds(f"ls -lR {r}")), "ms", 1e3)
        few = random.Random(1).sample(sides.files, min(500, len(sides.files)))
        row("cold small file", sides.cold(lambda r: sides.tool("read", r, few, 0)), "us", 1e-3)
        row("cold large file", {s: large_bytes / t / 1e9 for s, t in sides.cold(
            lambda r: seconds(f"cat '{os.path.join(r, sides.large)}'")).items()}, "GB/s", 1, inverse=True)
        program = "chroot {} /usr/bin/python3 -c 'import json, ssl, asyncio'"
        row("cold python import", sides.cold(lambda r: seconds(program.format(r))), "ms", 1e3)
        row("warm python import", {s: statistics.median(seconds(program.format(r)) for _ in range(5)) for s, r in sides.roots.items()}, "ms", 1e3)
        show(["small image", ""] + list(sides.roots), table)
        # A second mount of an image costs no page twice.
        rows = []
        for mode in ("kernel", "fuse"):
            first, second = sides.roots["imagefs " + mode], bench.imagefs.directory(mode + "2")
            bench.imagefs.call("mount", "-q", "--mode", mode, sides.ref, second)
            drop_caches()
            grown = [cached()]
            for root in (first, second):
                seconds(f"cat '{os.path.join(root, sides.large)}'")
                grown.append(cached())
            rows.append([mode, f"{large_bytes / 2**20:.0f}", f"{grown[1] - grown[0]:.0f}", f"{grown[2] - grown[1]:.0f}"])
            bench.put(f"page cache of a second mount's read of the same file, {mode}, MiB", max(0.0, grown[2] - grown[1]))
        show(["page cache, MiB", "file", "read by one mount", "then by another"], rows)
    finally:
        sides.close()


def part_mounts(bench, show):
    """A further mount of a mounted image, and a thousand mounts of fifty images, from the shell."""
    import images
    ref = bench.image("small")
    images.variants(bench.work, bench.infos["small"], 50)
    table = []
    for mode in ("kernel", "fuse"):
        bench.imagefs.reset()
        refs = []
        for i in range(50):
            bench.registry.push(bench.infos["small"], "small", f"v{i}", f"v{i}")
            refs.append(ref.rpartition(":")[0] + f":v{i}")
            bench.imagefs.call("pull", "-q", refs[-1])
        bench.imagefs.call("mount", "-q", "--mode", mode, refs[0], bench.imagefs.directory("first"))
        further = []
        for i in range(20):
            begin = time.monotonic()
            bench.imagefs.call("mount", "-q", "--mode", mode, refs[0], bench.imagefs.directory(f"f{i}"))
            further.append(time.monotonic() - begin)
        bench.imagefs.call("umount", "--all")
        directories = [[bench.imagefs.directory(f"m{i}-{k}") for k in range(20)] for i in range(50)]
        begin = time.monotonic()
        script = "\n".join(" ".join(bench.imagefs.command("mount", "-q", "--mode", mode, refs[i], directories[i][k]))
                           for k in range(20) for i in range(50))
        subprocess.run(["xargs", "-P", "8", "-I@", "sh", "-c", "@ >/dev/null"], input=script, text=True, check=True)
        thousand = time.monotonic() - begin
        listed = json.loads(bench.imagefs.call("ls", "--json"))
        if len(listed) != 1000:
            raise SystemExit(f"bench: {len(listed)} mounts instead of 1,000")
        rss = bench.imagefs.status()["rss_bytes"] / 2**20
        begin = time.monotonic()
        bench.imagefs.call("umount", "--all")
        away = time.monotonic() - begin
        bench.put(f"a further mount, {mode}, ms", statistics.median(further) * 1000)
        bench.put(f"1,000 mounts of 50 images, {mode}, s", thousand)
        table.append([mode, f"{statistics.median(further) * 1000:.1f}", f"{thousand:.1f}", f"{away:.1f}", f"{rss:.0f}"])
    show(["mounts from the shell", "a further one, ms", "1,000, s", "unmount all, s", "RSS MiB"], table)
    bench.imagefs.reset()
