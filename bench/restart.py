# SPDX-License-Identifier: Apache-2.0
"""What a daemon's start takes with much to take over: FUSE sessions of as many images, mount records, snapshots."""
import gzip
import hashlib
import io
import json
import os
import signal
import statistics
import subprocess
import tarfile
import time

from process import Daemon, mounts_below, wait_for


def write_layout(directory, count):
    """An OCI layout of `count` images of one small layer each, tags 0, 1, ..."""
    blobs = directory + "/blobs/sha256"
    os.makedirs(blobs)

    def put(content):
        digest = hashlib.sha256(content).hexdigest()
        with open(f"{blobs}/{digest}", "wb") as file:
            file.write(content)
        return "sha256:" + digest

    manifests = []
    for i in range(count):
        tar = io.BytesIO()
        with tarfile.open(fileobj=tar, mode="w") as out:
            content = f"image {i}\n".encode() * 100
            info = tarfile.TarInfo("etc/name")
            info.size = len(content)
            out.addfile(info, io.BytesIO(content))
        layer = gzip.compress(tar.getvalue(), 1, mtime=0)
        config = json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {
            "type": "layers", "diff_ids": ["sha256:" + hashlib.sha256(tar.getvalue()).hexdigest()]}}).encode()
        manifest = json.dumps({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": put(config), "size": len(config)},
            "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": put(layer), "size": len(layer)}],
        }).encode()
        manifests.append({"mediaType": "application/vnd.oci.image.manifest.v1+json", "digest": put(manifest),
                          "size": len(manifest), "annotations": {"org.opencontainers.image.ref.name": str(i)}})
    with open(directory + "/oci-layout", "w") as file:
        json.dump({"imageLayoutVersion": "1.0.0"}, file)
    with open(directory + "/index.json", "w") as file:
        json.dump({"schemaVersion": 2, "manifests": manifests}, file)


class Restart:
    def __init__(self, binary, work):
        self.binary, self.work = binary, work
        self.root, self.run = work + "/root", work + "/run"
        os.makedirs(work + "/m", exist_ok=True)

    def call(self, *words):
        return subprocess.run([self.binary, "--root", self.root, "--run", self.run, *words], check=True,
                              stdout=subprocess.PIPE, text=True).stdout

    def start(self):
        """Starts a daemon; (it, milliseconds until it answers)."""
        begin = time.monotonic()
        daemon = Daemon([self.binary + "d", "--root", self.root, "--run", self.run, "daemon"], self.work + "/daemon.log")
        wait_for(lambda: b" info ready " in open(self.work + "/daemon.log", "rb").read(), 120, "the daemon's start")
        return daemon, 1000 * (time.monotonic() - begin)

    def kill(self, daemon):
        daemon.process.send_signal(signal.SIGKILL)
        daemon.process.wait()

    def measure(self, daemon, reps, probe=None):
        """Milliseconds until it answers, and until `probe` was read, over kills."""
        starts, reads = [], []
        for _ in range(reps):
            self.kill(daemon)
            begin = time.monotonic()
            daemon, took = self.start()
            starts.append(took)
            if probe:
                with open(probe, "rb") as file:
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
                    file.read()
                reads.append(1000 * (time.monotonic() - begin))
        return daemon, statistics.median(starts), statistics.median(reads) if reads else None

    def clean(self, daemon):
        self.call("stop", "--unmount")
        daemon.process.wait()
        for mount in mounts_below(self.work):
            subprocess.run(["umount", "-l", mount], check=False)


def sessions(binary, work, count, mode, reps=5):
    """{ready, read}: `count` mounts of as many images, each with a session of its own in mode fuse."""
    node = Restart(binary, work)
    write_layout(work + "/layout", count)
    daemon, _ = node.start()
    for i in range(count):
        os.mkdir(f"{work}/m/{i}")
        node.call("mount", "-q", "--mode", mode, f"oci:{work}/layout:{i}", f"{work}/m/{i}")
    daemon, ready, read = node.measure(daemon, reps, f"{work}/m/{count - 1}/etc/name")
    listed = len(json.loads(node.call("ls", "--json")))
    if listed != count:
        raise SystemExit(f"bench: {listed} mounts of {count} are there")
    node.clean(daemon)
    return {"ready_ms": ready, "read_ms": read}


def snapshots(binary, work, count, lifecycle, reps=5):
    """{ready}: `count` snapshots that `lifecycle(socket, count)` makes."""
    node = Restart(binary, work)
    daemon, _ = node.start()
    lifecycle(node.run + "/snapshotter.sock", count)
    daemon, ready, _ = node.measure(daemon, reps)
    node.clean(daemon)
    return {"ready_ms": ready}
