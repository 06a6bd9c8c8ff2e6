# SPDX-License-Identifier: Apache-2.0
"""The part `runtime`: images pulled and containers started through containerd, with imagefs as its snapshotter and
with its own overlayfs in the same run; and the calls that containerd makes while its database is locked.

A cold pull has an empty store, an empty containerd and new daemons on either side; arms take turns. Pulls go
through the runtime interface (CRI), twenty at one instant by twenty connections, and each is timed by itself.
"""
import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import threading
import time

import first_line
from process import Daemon, mounts_below, wait_for

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.path.dirname(HERE)
CRI = SOURCE + "/tests/lib/cri.py"
PEERS = SOURCE + "/build/peers"
UNPACKED = PEERS + "/containerd"
STORM = 20
STARTS = 15
SNAPSHOTS = 500

COMMON = """root = "@/root"
state = "@/state"
[grpc]
  address = "@/sock"
[ttrpc]
  address = "@/ttrpc"
[plugins."io.containerd.internal.v1.opt"]
  path = "@/opt"
"""
VERSION1 = "version = 2\n" + COMMON + """[plugins."io.containerd.grpc.v1.cri"]
  disable_tcp_service = true
  restrict_oom_score_adj = true
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "{snapshotter}"
  disable_snapshot_annotations = false
"""
VERSION2 = "version = 3\n" + COMMON + """[plugins."io.containerd.grpc.v1.cri"]
  disable_tcp_service = true
[plugins."io.containerd.cri.v1.images"]
  snapshotter = "{snapshotter}"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
[plugins."io.containerd.nri.v1.nri"]
  disable = true
[[plugins."io.containerd.transfer.v1.local".unpack_config]]
  platform = "linux"
  snapshotter = "{snapshotter}"
  differ = "{differ}"
"""
PROXY = """[proxy_plugins.{snapshotter}]
  type = "snapshot"
  address = "{run}/snapshotter.sock"
  [proxy_plugins.{snapshotter}.exports]
    root = "{root}"
    enable_remote_snapshot_annotations = "true"
"""


def erofs_tools():
    """Newer erofs-utils than this machine's: the folder that has their mkfs.erofs."""
    subprocess.run([SOURCE + "/scripts/unpack.sh", "sid", PEERS + "/erofs", "erofs-utils"], check=True, timeout=600)
    os.makedirs(PEERS + "/bin", exist_ok=True)
    with open(PEERS + "/bin/mkfs.erofs", "w") as f:
        f.write(f'#!/bin/sh\nexec {PEERS}/erofs/run /usr/bin/mkfs.erofs "$@"\n')
    os.chmod(PEERS + "/bin/mkfs.erofs", 0o755)
    return PEERS + "/bin"


def programs_of(bench, version):
    """The folder of the programs of containerd 1.6, 2.1 or 2.3. runc is this machine's in all: the newer package's needs a
    newer C library."""
    if version == "1.6":
        return os.path.dirname(shutil.which("containerd"))
    folder = f"{bench.work}/containerd-{version}"
    os.makedirs(folder, exist_ok=True)
    links = {name: (PEERS + "/containerd-2.3/" if version == "2.3" else UNPACKED + "/usr/bin/") + name
             for name in ("containerd", "ctr", "containerd-shim-runc-v2")}
    if version == "2.3":
        links["mkfs.erofs"] = PEERS + "/bin/mkfs.erofs"
    for name, target in links.items():
        if not os.path.lexists(f"{folder}/{name}"):
            os.symlink(target, f"{folder}/{name}")
    return folder


class Node:
    """One containerd with one snapshotter: its own, or imagefs."""

    def __init__(self, bench, version, snapshotter, name=None, differ="walking"):
        self.bench, self.snapshotter, self.version = bench, snapshotter, version
        self.name = name or f"containerd {version}, {snapshotter}"
        self.work = f"{bench.work}/node-{re.sub('[^a-z0-9.]+', '-', self.name.lower())}"
        self.programs = programs_of(bench, version)
        self.config = (VERSION1 if version == "1.6" else VERSION2).replace("@", self.work).format(snapshotter=snapshotter, differ=differ)
        self.ours = self.work + "/" + snapshotter
        # The published index of the measured pull lies beside its image.
        self.settings = '[containerd]\nlazy = "repository"\n'
        if self.remote():
            self.config += PROXY.format(snapshotter=snapshotter, root=self.ours + "/root", run=self.ours + "/run")
        self.daemons = []

    def remote(self):
        """Whether the snapshotter is a process of its own."""
        return self.snapshotter == "imagefs"

    def snapshotter_command(self, config):
        return [self.bench.imagefs.binary + "d", "--root", self.ours + "/root", "--run", self.ours + "/run", "--config", config, "daemon"]

    def prepare(self):
        self.clean()
        os.makedirs(self.work)
        with open(self.work + "/config.toml", "w") as f:
            f.write(self.config)

    def start(self):
        self.prepare()
        if self.remote():
            os.makedirs(self.ours)
            with open(self.ours + "/config.toml", "w") as f:
                f.write(self.settings)
            self.daemons.append(Daemon(self.snapshotter_command(self.ours + "/config.toml"), self.work + "/snapshotter.log"))
            wait_for(lambda: os.path.exists(self.ours + "/run/snapshotter.sock"), 20, "start of the daemon")
        self.daemons.append(Daemon([self.programs + "/containerd", "-c", self.work + "/config.toml"], self.work + "/log",
                                   dict(os.environ, PATH=self.programs + ":" + os.environ["PATH"])))
        wait_for(lambda: subprocess.run(self.cri("version"), capture_output=True).returncode == 0, 20, "start of containerd")

    def stop(self):
        for daemon in reversed(self.daemons[1:]):
            daemon.stop()
        if self.snapshotter == "imagefs":  # the process that holds its mounts would stay
            subprocess.run([self.bench.imagefs.binary, "--root", self.ours + "/root", "--run", self.ours + "/run", "stop", "--unmount"],
                           capture_output=True)
        for daemon in self.daemons[:1]:
            daemon.stop()
        self.daemons = []
        self.clean()

    def clean(self):
        for mount in mounts_below(self.work):
            subprocess.run(["umount", "-l", mount])
        shutil.rmtree(self.work, ignore_errors=True)

    def cri(self, *args):
        return [sys.executable, CRI, "--socket", self.work + "/sock", "--stubs", self.bench.work + "/cri-stubs", *args]

    def ctr(self, *args):
        return [self.programs + "/ctr", "-a", self.work + "/sock", "-n", "k8s.io", *args]

    def pull(self, ref, parallel):
        done = subprocess.run(self.cri("pull", "--parallel", str(parallel), ref), capture_output=True, text=True)
        if done.returncode != 0:
            raise SystemExit(f"bench: {self.name}: {done.stdout[-400:]}{done.stderr[-400:]}")
        return json.loads(done.stdout)

    def first_output(self, ref, number, program, when_ready=None):
        """Seconds from the order to run a new container until it is ready (first_line.until_ready)."""
        begin = time.monotonic()
        process = subprocess.Popen(self.ctr("run", "--rm", "--net-host", "--snapshotter", self.snapshotter, ref, f"run{number}", *program),
                                   stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                   env=dict(os.environ, PATH=self.programs + ":" + os.environ["PATH"]))
        first_line.until_ready(process, program)
        took = time.monotonic() - begin
        if when_ready:
            when_ready()
        if isinstance(program, first_line.Server):
            subprocess.run(self.ctr("task", "kill", "-s", "KILL", f"run{number}"), check=True)
        process.communicate()
        return took


def layer_bytes(bench, since, size):
    """How often the registry sent the layers of an image since that place in its log."""
    layers = {layer["digest"]: layer["size"] for layer in bench.infos[size]["layers"]}
    sent = 0
    with open(bench.registry.dir + "/log", errors="replace") as f:
        f.seek(since)
        for digest, count in re.findall(r'"GET /v2/\S+/blobs/(sha256:[0-9a-f]{64}) HTTP/1.1" 20[06] (\d+)', f.read()):
            sent += int(count) if digest in layers else 0
    return sent / sum(layers.values())


def cold_pull(bench, node, size, parallel):
    node.start()
    try:
        since = os.path.getsize(bench.registry.dir + "/log")
        result = node.pull(bench.refs[size], parallel)
        time.sleep(0.2)  # the registry's log
        times = [pull["seconds"] for pull in result["pulls"]]
        return {"seconds": result["seconds"], "first": min(times), "middle": statistics.median(times), "last": max(times),
                "layers_sent": layer_bytes(bench, since, size)}
    finally:
        node.stop()


def pulls(bench, show, nodes, size):
    rows = {}
    for _ in range(bench.args.reps):
        for node in nodes:
            for parallel in (1, STORM):
                rows.setdefault((node, parallel), []).append(cold_pull(bench, node, size, parallel))
                print(f"  {size}, {parallel} pulls, {node.name}: {rows[node, parallel][-1]['seconds']:.2f} s", flush=True)
    middle = {key: {k: statistics.median(r[k] for r in runs) for k in runs[0]} for key, runs in rows.items()}
    table = []
    for (node, parallel), m in middle.items():
        table.append([f"{size}, {parallel} at once", node.name] + [f"{m[k]:.2f}" for k in ("seconds", "first", "middle", "last", "layers_sent")])
        ours = middle[next(n for n in nodes if n.version == node.version and n.snapshotter == "imagefs"), parallel]
        what = f"{size}, {parallel} CRI pulls, containerd {node.version}"
        if node.snapshotter == "imagefs":
            bench.put(f"{what}, s", m["seconds"])
            bench.put(f"{what}: layers sent, times", m["layers_sent"])
            if parallel == STORM:
                bench.put(f"{what}: against one", m["seconds"] / middle[node, 1]["seconds"])
        else:
            bench.put(f"{what}: x faster than overlayfs", m["seconds"] / ours["seconds"])
    show(["cold CRI pull", "system", "all s", "first s", "median s", "last s", "layers sent"], table)
    return {f"{node.name}, {parallel}": runs for (node, parallel), runs in rows.items()}


def indexed(bench, show, nodes, size):
    """A pull of an image whose index somebody has published."""
    bench.imagefs.reset()
    bench.imagefs.call("index", "-q", "--push", bench.refs[size])
    bench.imagefs.reset()
    rows = {node.name: [cold_pull(bench, node, size, 1) for _ in range(bench.args.reps)]
            for node in nodes if node.snapshotter == "imagefs"}
    for name, runs in rows.items():
        bench.put(f"{size}, a CRI pull with a published index, {name.split(',')[0]}, ms", 1000 * statistics.median(r["seconds"] for r in runs))
    show(["cold CRI pull, index published", "system", "s", "layers sent"],
         [[size, name, f"{statistics.median(r['seconds'] for r in runs):.3f}", f"{statistics.median(r['layers_sent'] for r in runs):.2f}"]
          for name, runs in rows.items()])
    return rows


def starts(bench, show, pair, size):
    """Containers of an image that is here and was read before, the two sides in turn."""
    programs = {"sh": ["/bin/sh", "-c", "echo ready"],
                "python3 imports": ["/usr/bin/python3", "-c", "import json, ssl, asyncio; print('ready')"]}
    result, table, number = {}, [], 0
    try:
        for node in pair:
            node.start()
            node.pull(bench.refs[size], 1)
        # The layers that are still on their way would compete.
        ours = next(node for node in pair if node.snapshotter == "imagefs")
        state = [bench.imagefs.binary, "--root", ours.ours + "/root", "--run", ours.ours + "/run", "status", "--json"]
        wait_for(lambda: all(layer["state"] == "complete" for layer in json.loads(subprocess.check_output(state))["layers"]), 120,
                 "completion of the layers")
        for what, program in programs.items():
            for node in pair:
                node.first_output(bench.refs[size], f"warm{number}", program)
                number += 1
            for _ in range(STARTS):
                for node in pair:
                    result.setdefault(f"{node.name}, {what}", []).append(node.first_output(bench.refs[size], number, program))
                    number += 1
            middle = {node.snapshotter: statistics.median(result[f"{node.name}, {what}"]) for node in pair}
            table.append([what, f"containerd {pair[0].version}"] + [f"{1000 * middle[s]:.0f}" for s in ("imagefs", "overlayfs")])
            bench.put(f"container start, {what}, containerd {pair[0].version}, imagefs against overlayfs", middle["imagefs"] / middle["overlayfs"])
    finally:
        for node in pair:
            node.stop()
    show(["warm start until the first line", "", "imagefs ms", "overlayfs ms"], table)
    return result


class Snapshots:
    """The snapshotter's socket, as containerd uses it."""

    def __init__(self, work, socket):
        stubs = work + "/snapshot-stubs"
        if not os.path.exists(stubs + "/made"):
            os.makedirs(stubs, exist_ok=True)
            subprocess.run(["protoc", "-I", SOURCE, "--python_out", stubs, "--grpc_python_out", stubs,
                            "--plugin", "protoc-gen-grpc_python=" + shutil.which("grpc_python_plugin"),
                            "proto/containerd/snapshots.proto", "proto/containerd/types.proto"], cwd=SOURCE, check=True)
            open(stubs + "/made", "w").close()
        sys.path.insert(0, stubs)
        import grpc
        from proto.containerd import snapshots_pb2, snapshots_pb2_grpc
        self.messages = snapshots_pb2
        self.stub = snapshots_pb2_grpc.SnapshotsStub(grpc.insecure_channel("unix:" + socket))

    def timed(self, method, request):
        begin = time.monotonic()
        getattr(self.stub, method)(request)
        return 1000 * (time.monotonic() - begin)

    def lifecycle(self, prefix, count):
        """{method: [ms]} of that many snapshots."""
        m, took = self.messages, {"Prepare": [], "Commit": [], "Update": []}
        for i in range(count):
            key = f"k8s.io/{i}/{prefix}-extract"
            took["Prepare"].append(self.timed("Prepare", m.PrepareSnapshotRequest(snapshotter="imagefs", key=key)))
            took["Commit"].append(self.timed("Commit", m.CommitSnapshotRequest(
                snapshotter="imagefs", key=key, name=f"{prefix}-{i}", labels={"containerd.io/snapshot.ref": f"sha256:{i:064x}"})))
            update = m.UpdateSnapshotRequest(snapshotter="imagefs")
            update.info.name = f"{prefix}-{i}"
            update.info.labels["containerd.io/snapshot/x"] = "y"
            update.update_mask.paths.append("labels.containerd.io/snapshot/x")
            took["Update"].append(self.timed("Update", update))
        return took

    def list_all(self):
        begin, count = time.monotonic(), 0
        for answer in self.stub.List(self.messages.ListSnapshotsRequest(snapshotter="imagefs")):
            count += len(answer.info)
        return 1000 * (time.monotonic() - begin), count


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def calls(bench, show):
    """Of a quiet daemon, and of one that makes the layers of a large image at the same time."""
    imagefs = bench.imagefs
    imagefs.reset()
    daemon = Daemon([imagefs.binary + "d", "--root", imagefs.work + "/root", "--run", imagefs.work + "/run", "daemon"],
                    bench.work + "/calls.log")
    wait_for(lambda: os.path.exists(imagefs.work + "/run/snapshotter.sock"), 20, "start of the daemon")
    table, result = [], {}
    try:
        snapshots = Snapshots(bench.work, imagefs.work + "/run/snapshotter.sock")
        result["quiet"] = snapshots.lifecycle("quiet", SNAPSHOTS)
        lists = [snapshots.list_all() for _ in range(20)]
        result["list"] = [ms for ms, _ in lists]
        if any(count != SNAPSHOTS for _, count in lists):
            raise SystemExit(f"bench: List gave {lists[0][1]} snapshots of {SNAPSHOTS}")
        pull = threading.Thread(target=imagefs.call, args=("pull", "-q", bench.refs["large" if not bench.args.quick else "small"]))
        pull.start()
        result["busy"] = snapshots.lifecycle("busy", SNAPSHOTS)
        result["busy whole time"] = pull.is_alive()
        pull.join()
        for state in ("quiet", "busy"):
            for method, values in result[state].items():
                table.append([method, state] + [f"{percentile(values, share):.2f}" for share in (0.5, 0.99, 1.0)])
                if method != "Prepare":  # not inside containerd's transaction
                    bench.put(f"{method}, {state} daemon, p99 ms", percentile(values, 0.99))
        table.append([f"List of {SNAPSHOTS}", "quiet"] + [f"{percentile(result['list'], share):.2f}" for share in (0.5, 0.99, 1.0)])
        bench.put(f"{SNAPSHOTS} snapshots listed, ms", statistics.median(result["list"]))
    finally:
        daemon.stop()
        imagefs.reset()
    show(["call", "daemon", "median ms", "p99 ms", "longest ms"], table)
    return result


def part_runtime(bench, show):
    versions = ["1.6"]
    try:
        subprocess.run([SOURCE + "/scripts/unpack.sh", "sid", UNPACKED, "containerd"], check=True, timeout=600)
        versions.append("2.1")
    except (subprocess.SubprocessError, OSError) as error:
        print(f"bench: no containerd 2 here: {error}", flush=True)
    nodes = [Node(bench, version, snapshotter) for version in versions for snapshotter in ("imagefs", "overlayfs")]
    sizes = ["small"] if bench.args.quick else ["small", "large"]
    results = {}
    for size in sizes:
        bench.image(size)
    results["calls"] = calls(bench, show)
    for size in sizes:
        results["pulls " + size] = pulls(bench, show, nodes, size)
    for i in range(0, len(nodes), 2):
        results[f"starts {nodes[i].version}"] = starts(bench, show, nodes[i:i + 2], "small")
    for size in sizes:
        results["indexed " + size] = indexed(bench, show, nodes, size)
    bench.results["runtime"] = results
