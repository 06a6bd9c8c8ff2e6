# SPDX-License-Identifier: Apache-2.0
"""The part `peers`: an image pulled by containerd's CRI and a container of it run until it is ready, with imagefs as the
snapshotter, with the other lazy ones, and with the fastest that unpack; over lines of several speeds.

All run in one run and in turns, behind the same shaped line, each with an empty store and new daemons that run when the
clock starts. It stops when a program in the container prints its first line, or its server answers. What was to be lazy
proves it by its mounts and by the ranges it asked for, since lazy snapshotters unpack silently where they cannot be lazy.

stargz has a copy that ctr-remote makes of the image, without a list of files to prefetch; SOCI has one with its index, which
keeps the layers. Both run with their defaults, so with background fetches. imagefs has what it publishes beside the image.
"""
import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys

import first_line
from process import Foreign, Repeats, adopt, reap
from runtime import PEERS, SOURCE, Node, erofs_tools

sys.path.insert(0, SOURCE + "/tests/lib")
from oci import INDEX, MANIFEST, Registry  # noqa: E402

SQLITE = ["/usr/bin/python3", "-c", "import sqlite3; print('ready' if sqlite3.connect(':memory:').execute('select 1').fetchone() else 'no')"]
EAGER_LINES = ["loopback", "1 Gbit/s"]
# image, what, program (a port makes it a server's), lines, whether those that unpack run too
PROGRAMS = [("small", "python3 imports", lambda port: first_line.PYTHON, ["loopback", "1 Gbit/s", "100 Mbit/s", "100 Mbit/s, 20 ms"], True),
            ("small", "sqlite3 answers", lambda port: SQLITE, ["100 Mbit/s, 20 ms"], False),
            ("small", "http.server answers", lambda port: first_line.Server(
                f"http://127.0.0.1:{port}/", ["/usr/bin/python3", "-m", "http.server", "--bind", "127.0.0.1", str(port)]),
             ["loopback", "100 Mbit/s, 20 ms"], False),
            ("large", "python3 imports", lambda port: first_line.PYTHON, ["loopback", "1 Gbit/s", "100 Mbit/s", "100 Mbit/s, 20 ms"], True)]

# Without it containerd tries TLS first.
HOSTS = """[plugins."io.containerd.cri.v1.images".registry]
  config_path = "@/hosts"
[plugins."io.containerd.transfer.v1.local"]
  config_path = "@/hosts"
"""
EROFS = """  max_concurrent_unpacks = 4
[plugins."io.containerd.service.v1.diff-service"]
  default = ["erofs", "walking"]
"""
SOCI_CONTENT = '[content_store]\n  type = "containerd"\n  containerd_address = "@/sock"\n'
SOCI_PARALLEL = SOCI_CONTENT + """[pull_modes.parallel_pull_unpack]
  enable = true
  max_concurrent_downloads_per_image = 10
  concurrent_download_chunk_size = "8mb"
  max_concurrent_unpacks_per_image = 10
  discard_unpacked_layers = true
"""


class Arm(Node):
    """A containerd with a snapshotter, and the repository of the image that it pulls."""

    def __init__(self, bench, name, repository, snapshotter, version="2.1", program=None, settings="", lazy=False, differ="walking",
                 config=""):
        self.program = program
        super().__init__(bench, version, snapshotter, name, differ)
        self.repository, self.lazy, self.host = repository, lazy, None
        self.config += (HOSTS + config).replace("@", self.work)
        self.settings = ("" if program else self.settings) + settings.replace("@", self.work)

    def remote(self):
        return self.program is not None or super().remote()

    def snapshotter_command(self, config):
        if self.program is None:
            return super().snapshotter_command(config)
        os.makedirs(self.ours + "/run")
        return [self.program, "--address", self.ours + "/run/snapshotter.sock", "--root", self.ours + "/root", "--config", config]

    def start(self, host):
        self.host = host
        super().start()

    def prepare(self):
        super().prepare()
        os.makedirs(f"{self.work}/hosts/{self.host}")
        with open(f"{self.work}/hosts/{self.host}/hosts.toml", "w") as f:
            f.write(f'server = "http://{self.host}"\n')

    def pids(self):
        return [daemon.process.pid for daemon in self.daemons]

    def prove(self, totals, blob_bytes):
        """Ends the benchmark if what was to be lazy was not, or the other way round."""
        types = [line.split(" - ")[1].split()[0] for line in open("/proc/self/mountinfo") if line.split()[4].startswith(self.work + "/")]
        ranged = totals["by_status"].get("206", 0)
        if self.lazy and (ranged == 0 or totals["sent"] > blob_bytes * 0.8 or
                          (self.program is not None and not any(t.startswith("fuse") for t in types))):
            raise SystemExit(f"bench: {self.name} was not lazy: {ranged} ranges, {totals['sent']} of {blob_bytes} bytes, mounts {types}")
        if self.lazy and self.program is None:
            state = [self.bench.imagefs.binary, "--root", self.ours + "/root", "--run", self.ours + "/run", "status", "--json"]
            packed = json.loads(subprocess.check_output(state))["counters"]["hot_pack_bytes"]
            if (packed > 0) != self.name.endswith("pack"):
                raise SystemExit(f"bench: {self.name}: {packed} bytes came with the pack")
        if not self.lazy and totals["sent"] < blob_bytes:
            raise SystemExit(f"bench: {self.name} did not pull everything: {totals['sent']} of {blob_bytes} bytes")


def program_or_none(bench, path):
    if os.access(PEERS + path, os.X_OK):
        return PEERS + path
    print(f"bench: SKIPPED: build/peers{path} is not there; see bench/peers.sh", flush=True)
    bench.results.setdefault("skipped", []).append(path)
    return None


def make_arms(bench, key):
    """The arms for one image and program: those that are lazy and those that unpack, and not what this machine lacks."""
    arms = [Arm(bench, "imagefs, index", "index", "imagefs", lazy=True),
            Arm(bench, "imagefs, index and profile", key, "imagefs", settings="[fill]\nhot_pack = false\n", lazy=True),
            Arm(bench, "imagefs, index, profile and pack", key, "imagefs", lazy=True),
            Arm(bench, "imagefs, whole", "plain", "imagefs")]
    stargz = program_or_none(bench, "/stargz/containerd-stargz-grpc")
    if stargz:
        arms.append(Arm(bench, "stargz", "estargz", "stargz", program=stargz, lazy=True))
    soci = program_or_none(bench, "/soci/soci-snapshotter-grpc")
    if soci:
        arms.append(Arm(bench, "SOCI", "soci", "soci", program=soci, settings=SOCI_CONTENT, lazy=True))
        arms.append(Arm(bench, "SOCI, parallel", "plain", "soci", program=soci, settings=SOCI_PARALLEL))
    if program_or_none(bench, "/containerd-2.3/containerd"):
        erofs_tools()
        arms.append(Arm(bench, "containerd 2.3, EROFS", "plain", "erofs", version="2.3", differ="erofs", config=EROFS))
    return arms


class Images:
    """The copies of an image that the arms pull, each in a repository of its own."""

    def __init__(self, bench, size):
        self.bench, self.size = bench, size
        bench.image(size)
        self.info = bench.infos[size]
        self.made = set()

    def ref(self, repository, host=None):
        return f"{host or self.bench.registry.host}/bench/peers-{self.size}-{repository}:latest"

    def need(self, repository, program):
        """Makes it, if that was not done; `program` is what a profile is made of."""
        if repository in self.made:
            return
        self.made.add(repository)
        if repository in ("estargz", "soci"):
            layout = f"{self.bench.work}/images/{self.size}-{repository}"
            if not os.path.exists(layout):
                print(f"bench: converting {self.size} for {repository}", flush=True)
                shutil.rmtree(layout + ".part", ignore_errors=True)
                getattr(self, "make_" + repository)(layout + ".part")
                os.rename(layout + ".part", layout)
            self.copy("--all", "--dest-tls-verify=false", "oci:" + layout, "docker://" + self.ref(repository))
        else:
            self.bench.registry.push(self.info, f"peers-{self.size}-{repository}")
            if repository != "plain":
                first_line.publish(self.bench, None, self.ref(repository), program, False)
            if repository not in ("plain", "index"):
                # A profile is of reads of a lazy image.
                first_line.publish(self.bench, None, self.ref(repository), program, True)

    @staticmethod
    def copy(*args):
        subprocess.run(["skopeo", "--insecure-policy", "copy", "-q", *args], check=True)

    def make_soci(self, layout):
        subprocess.run([PEERS + "/soci/soci", "convert", "--standalone", "--format", "oci-dir", self.info["layout"], layout],
                       check=True, capture_output=True)

    def make_estargz(self, layout):
        self.need("plain", None)
        node = Arm(self.bench, "converter", "plain", "overlayfs")
        node.start(self.bench.registry.host)
        remote = [PEERS + "/lazy/run", "/usr/bin/ctr-remote", "-a", node.work + "/sock", "images"]
        try:
            for command in (["pull", "--plain-http", self.ref("plain")],
                            ["convert", "--oci", "--estargz", self.ref("plain"), self.ref("estargz")],
                            ["push", "--plain-http", self.ref("estargz")]):
                program = remote if command[0] == "convert" else [*node.ctr(), "images"]
                # The converter has the namespace of the other calls.
                subprocess.run(program + command, check=True, capture_output=True, env=dict(os.environ, CONTAINERD_NAMESPACE="k8s.io"))
        finally:
            node.stop()
        self.copy("--src-tls-verify=false", "docker://" + self.ref("estargz"), "oci:" + layout)

    def blob_bytes(self, repository):
        """All layers', of the manifest that the registry has there."""
        registry = Registry(self.bench.registry.host)
        name, tag = f"bench/peers-{self.size}-{repository}", "latest"
        while True:
            manifest = json.loads(registry.ask("GET", f"/v2/{name}/manifests/{tag}", headers={"Accept": f"{MANIFEST}, {INDEX}"})[2])
            if "layers" in manifest:
                return sum(layer["size"] for layer in manifest["layers"])
            tag = next(m for m in manifest["manifests"] if "artifactType" not in m)["digest"]


class Turn:
    """One line, and the runs of all arms over it."""

    def __init__(self, bench, line, images, program):
        self.bench, self.line, self.images, self.program = bench, line, images, program
        self.number = 0

    def client(self, arm):
        import cri  # the client of the tests; loads what it needs from the network's definitions
        cri.load_stubs(self.bench.work + "/cri-stubs")
        return cri.Client(arm.work + "/sock")

    def run(self, arm):
        arm.start(self.line.host)
        try:
            client = self.client(arm)
            adopt(True)
            request = argparse.Namespace(ref=[self.images.ref(arm.repository, self.line.host)], parallel=1, creds=None, auth=None,
                                         identity_token=None, registry_token=None, handler="", deadline=300)
            foreign = Foreign(lambda: arm.pids() + [self.bench.registry.process.pid, self.line.process.pid])
            self.line.ctl("reset")
            pulled, failed = client.pull(request)
            if failed:
                raise SystemExit(f"bench: {arm.name}: {pulled['pulls'][0]['error']}")
            totals = {}
            self.number += 1
            took = arm.first_output(request.ref[0], self.number, self.program, lambda: totals.update(self.line.ctl("totals")))
            reap("containerd-shim")  # Linux cuts names to 15 characters; the program's time is in the shim's
            share = foreign.share()
            arm.prove(totals, self.images.blob_bytes(arm.repository))
            return {"pulled": pulled["seconds"], "ready": pulled["seconds"] + took, "bytes": totals["sent"],
                    "requests": totals["requests"], "ranges": totals["by_status"].get("206", 0), "foreign": share}
        finally:
            adopt(False)
            arm.stop()

    def runs(self, arms, reps, what):
        """{name of the arm: runs}; a disturbed run is made again, at most as often as there are repetitions."""
        rows, repeats = {arm.name: [] for arm in arms}, {arm.name: Repeats(reps) for arm in arms}
        for rep in range(reps):
            for arm in arms:
                while len(rows[arm.name]) <= rep:
                    run = self.run(arm)
                    again = repeats[arm.name].again(run["foreign"])
                    print(f"  {what}, {arm.name}: {run['ready']:.2f} s, {run['bytes'] / 1e6:.1f} MB, others {run['foreign']:.2f} processors"
                          f"{' (again)' if again else ''}", flush=True)
                    if not again:
                        rows[arm.name].append(run)
        return rows


def quotients(bench, what, rows):
    """Of each arm of imagefs against each peer that is as lazy as it: the median of the repetitions' quotients."""
    table = []
    for ours in (name for name in rows if name.startswith("imagefs")):
        for peer in (name for name in rows if not name.startswith("imagefs")):
            if (ours == "imagefs, whole") != (peer in ("SOCI, parallel", "containerd 2.3, EROFS")):
                continue
            value = statistics.median(a["ready"] / b["ready"] for a, b in zip(rows[ours], rows[peer]))
            bench.put(f"peers {what}: {ours} / {peer}", value)
            table.append([what, f"{ours} / {peer}", f"{value:.2f}"])
    return table


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def part_peers(bench, show):
    built = subprocess.run([SOURCE + "/bench/peers.sh"], capture_output=True, text=True)
    if built.returncode != 0:
        print(f"bench: bench/peers.sh failed, so some peers may be missing: {built.stderr[-600:]}", flush=True)
    table, ratios, results, images = [], [], {}, {}
    for number, (size, program_name, make_program, lines, unpackers) in enumerate(PROGRAMS):
        if bench.args.quick and size != "small":
            continue
        program = make_program(free_port())
        copies = images.setdefault(size, Images(bench, size))
        arms = [arm for arm in make_arms(bench, f"program{number}") if arm.lazy or unpackers]
        for arm in arms:
            copies.need(arm.repository, program)
        for name in lines:
            here = [arm for arm in arms if name in (first_line.LAZY_LINES if arm.lazy else EAGER_LINES)]
            line = first_line.Line(bench, first_line.LINES[name])
            what = f"{size}, {program_name}, {name}"
            try:
                rows = Turn(bench, line, copies, program).runs(here, bench.args.reps, what)
            finally:
                line.stop()
            results[what] = {"runs": rows, "blob_bytes": {arm.name: copies.blob_bytes(arm.repository) for arm in here}}
            for arm, runs in rows.items():
                m = {k: statistics.median(r[k] for r in runs) for k in runs[0]}
                table.append([f"{size}, {program_name}", name, arm, f"{m['pulled']:.2f}", f"{m['ready']:.2f}", f"{m['bytes'] / 1e6:.1f}",
                              f"{m['requests']:.0f}", f"{sum(r['foreign'] > Foreign.LIMIT for r in runs) or ''}"])
            ratios += quotients(bench, what, rows)
    bench.results["peers"] = results
    show(["through containerd", "line", "system", "pulled s", "ready s", "MB fetched", "requests", "disturbed"], table)
    show(["quotients of the time", "systems", "median"], ratios)
    bench.imagefs.reset()
