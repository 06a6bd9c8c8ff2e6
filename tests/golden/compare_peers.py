#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Shows the cases of odd_tars.py to the runtimes of this machine and to imagefs, and compares the trees field by field.

compare_peers.py PEER WORK IMAGEFS... [-- NAME...]
  PEER     "containerd SOCKET", "podman" or "umoci"
  WORK     a folder of one's own
  IMAGEFS  the command with its options
Exit status 1 when a runtime differs from imagefs in anything that odd_tars.py does not say, or no longer in what it says.
"""
import json
import os
import shutil
import subprocess
import sys
import tarfile
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import odd_tars  # noqa: E402
from oci import simple_image  # noqa: E402
from tree import read_tree  # noqa: E402


def run(*command, folder=None):
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120, cwd=folder)
    return result.returncode, result.stdout.decode(errors="replace").strip()


class Refused(Exception):
    pass


def must(*command, folder=None):
    status, text = run(*command, folder=folder)
    if status != 0:
        raise Refused(text.splitlines()[-1] if text else f"exit status {status}")
    return text


class Containerd:
    def __init__(self, work, socket):
        self.work, self.ctr = work, ("ctr", "-a", socket)

    def tree(self, name, layout):
        ref, archive, place = f"odd.test/{name}:latest", self.work + "/image.tar", f"{self.work}/theirs/{name}"
        index = json.load(open(layout + "/index.json"))
        index["manifests"][0]["annotations"]["io.containerd.image.name"] = ref
        with open(layout + "/index.json", "w") as f:
            json.dump(index, f)
        with tarfile.open(archive, "w") as t:
            t.add(layout, ".")
        must(*self.ctr, "image", "import", "--digests=false", archive)
        os.makedirs(place, exist_ok=True)
        must(*self.ctr, "image", "mount", ref, place)
        try:
            return read_tree(place)
        finally:
            run("umount", place)


class Podman:
    def __init__(self, work):
        self.podman = ("podman", "--root", work + "/podman", "--runroot", work + "/podman-run", "--storage-driver", "overlay")

    def tree(self, name, layout):
        # It makes a name of the path as it is given, which has to be a short one of small letters.
        image = must(*self.podman, "pull", "-q", f"oci:{name}:latest", folder=os.path.dirname(layout)).splitlines()[-1]
        try:
            return read_tree(must(*self.podman, "image", "mount", image).splitlines()[-1])
        finally:
            run(*self.podman, "image", "umount", image)
            run(*self.podman, "rmi", "-f", image)


class Umoci:
    def __init__(self, work):
        self.bundle = work + "/bundle"

    def tree(self, name, layout):
        shutil.rmtree(self.bundle, ignore_errors=True)
        must("umoci", "raw", "unpack", "--image", layout + ":latest", self.bundle)
        return read_tree(self.bundle)


def ours(imagefs, work, layout):
    place = work + "/ours"
    os.makedirs(place, exist_ok=True)
    must(*imagefs, "mount", "-q", f"oci:{layout}:latest", place)
    try:
        return read_tree(place)
    finally:
        must(*imagefs, "umount", place)


STARTED = time.time_ns() - 10 ** 9
IGNORED_AT_ROOT = {"mode", "uid", "gid", "mtime_ns", "xattrs"}  # the runtimes do not agree


def differences(mine, theirs):
    """{path: [field...] | "missing" | "extra"}: what they have otherwise."""
    out = {}
    for path in sorted(mine.keys() | theirs.keys()):
        if path not in theirs or path not in mine:
            out[path] = "missing" if path in mine else "extra"
            continue
        a, b = mine[path], theirs[path]
        if "links" in b:
            b = dict(b, nlink=len(b["links"]))  # overlayfs counts the names that it hides
        fields = [k for k in sorted(a.keys() | b.keys()) if a.get(k) != b.get(k)]
        if path == "":
            fields = [k for k in fields if k not in IGNORED_AT_ROOT]
        if "links" not in a and b["mtime_ns"] > STARTED:  # when a directory was made, or changed, by the runtime
            fields = [k for k in fields if k != "mtime_ns"]
        if fields:
            out[path] = fields
    return out


def attempt(function, *args):
    try:
        return function(*args), ""
    except Refused as error:
        return None, str(error)


def judge(name, peer, known, mine, theirs, why):
    """The lines that say what is not as it should be."""
    lines = []
    if (mine is None) != name.startswith("bad-"):
        lines.append("imagefs " + (f"refuses it: {why[0]}" if mine is None else "accepts it"))
    if (theirs is None) != (known == "refuses"):
        lines.append(f"{peer} " + (f"refuses it: {why[1]}" if theirs is None else "accepts it"))
    if mine is None or theirs is None:
        return lines
    found, wanted = differences(mine, theirs), known if isinstance(known, dict) else {}
    for path in sorted(found.keys() | wanted.keys()):
        if found.get(path) != wanted.get(path):
            lines.append(f"{path!r}: {peer} has otherwise {found.get(path)}, said is {wanted.get(path)}")
            for field in found[path] if isinstance(found.get(path), list) else ():
                lines.append(f"    {field}: imagefs {mine[path].get(field)}, {peer} {theirs[path].get(field)}")
    return lines


def main(args):
    names = args[args.index("--") + 1:] if "--" in args else []
    args = args[:args.index("--")] if "--" in args else args
    peer, *options = args[0].split()
    work, imagefs = args[1], args[2:]
    runtime = {"containerd": Containerd, "podman": Podman, "umoci": Umoci}[peer](work, *options)
    bad = entries = 0
    for name in names or odd_tars.CASES:
        known = odd_tars.KNOWN[name].get(peer)
        if known == "spared":
            continue
        layout = f"{work}/layouts/{name}"
        simple_image(layout, odd_tars.layers_of(name))
        mine, why_mine = attempt(ours, imagefs, work, layout)
        theirs, why_theirs = attempt(runtime.tree, name, layout)
        entries += len(mine or ())
        lines = judge(name, peer, known, mine, theirs, (why_mine, why_theirs))
        bad += bool(lines)
        for line in lines[:40]:
            print(f"{name}: {line}")
        shutil.rmtree(layout)
    print(f"{len(names or odd_tars.CASES)} cases, {entries} files compared with {peer}, {bad} not as said")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
