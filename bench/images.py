# SPDX-License-Identifier: Apache-2.0
"""The images that the benchmark pulls: real files out of Debian packages of this machine's release.

Made once and cached under the work folder: a debootstrap minbase tree, and layers that hold the
files of further packages with all they depend on, each package in the first layer that needs it.
"""
import glob
import gzip
import itertools
import json
import os
import random
import shutil
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
SOURCE = os.path.dirname(HERE)
sys.path.insert(0, SOURCE + "/tests/lib")
from oci import Layer, Layout, Tar, gzipped, sha256  # noqa: E402

# name: the packages of each layer above minbase.
SETS = {
    "small": [["python3", "python3-venv"], ["perl", "git"]],
    "large": [["python3", "python3-venv"], ["perl", "git"], ["gcc", "g++"],
              ["openjdk-17-jre-headless", "maven"], ["ruby-full", "texlive-base", "vim", "nodejs"]],
}


def run(*command, **kw):
    return subprocess.run(command, check=True, **kw)


def mirror(what):
    return subprocess.check_output([SOURCE + "/scripts/mirror.sh", what], text=True).strip()


def minbase(work):
    suite = mirror("suite")
    for tree in (SOURCE + "/build/run/tree", work + "/tree"):
        if os.path.exists(tree + "." + suite):
            return tree
    print("bench: debootstrap", flush=True)
    shutil.rmtree(work + "/tree", ignore_errors=True)
    with open(work + "/debootstrap.log", "w") as log:
        run("debootstrap", "--variant=minbase", suite, work + "/tree", mirror("uri"), stdout=log, stderr=log)
    open(work + "/tree." + suite, "w").close()
    return work + "/tree"


def packages(work, names):
    """Downloads `names` and what they depend on; the names of the files."""
    debs = work + "/debs"
    os.makedirs(debs + "/partial", exist_ok=True)
    # An empty status makes apt name everything that is needed, installed here or not.
    options = ["-o", "Dir::State::status=/dev/null", "-o", "Debug::NoLocking=1", "-o", "APT::Install-Recommends=false",
               "-o", "Dir::Cache::archives=" + debs, "-o", "APT::Sandbox::User=root", "-o", "Acquire::Retries=3"]
    text = subprocess.check_output(["apt-get", *options, "-s", "install", *names], text=True)
    needed = [line.split()[1] for line in text.splitlines() if line.startswith("Inst ")]
    run("apt-get", *options, "-qq", "--download-only", "install", *names, stdout=subprocess.DEVNULL)
    return [os.path.basename(glob.glob(f"{debs}/{name}_*.deb")[0]) for name in needed]


def merge_usr(tree):
    """Moves what packages still have in /lib, /bin and so on to where the base's symbolic links point,
    as dpkg would: in a layer of its own such a directory would hide the link, and with it the base."""
    for name in ("bin", "sbin", "lib", "lib64"):
        path = f"{tree}/{name}"
        if os.path.isdir(path) and not os.path.islink(path):
            os.makedirs(f"{tree}/usr/{name}", exist_ok=True)
            run("cp", "-a", path + "/.", f"{tree}/usr/{name}")
            shutil.rmtree(path)


def pack(layout, tree):
    """Tars and compresses a tree into the layout as `docker build` would; a Layer-like dictionary."""
    raw = layout.path + "/layer.tar"
    run("tar", "-C", tree, "--sort=name", "--numeric-owner", "--xattrs", "-cf", raw, ".")
    with open(raw + ".gz", "wb") as out:
        run("gzip", "-6", "-n", "-c", raw, stdout=out)
    return finish(layout, raw, raw + ".gz")


def finish(layout, raw, packed):
    def digest(path):
        return "sha256:" + subprocess.check_output(["sha256sum", path], text=True).split()[0]
    layer = {"diff_id": digest(raw), "digest": digest(packed), "size": os.path.getsize(packed), "tar": os.path.getsize(raw)}
    os.rename(packed, f"{layout.path}/blobs/sha256/{layer['digest'][7:]}")
    os.unlink(raw)
    return layer


def write_image(layout, layers, tag="latest", media_type="tar+gzip"):
    config = json.dumps({"architecture": os.uname().machine.replace("x86_64", "amd64").replace("aarch64", "arm64"), "os": "linux",
                         "config": {}, "rootfs": {"type": "layers", "diff_ids": [l["diff_id"] for l in layers]},
                         "history": [{"created_by": "bench"} for _ in layers]}).encode()
    media = "application/vnd.oci.image."
    layout.tag(layout.manifest({
        "schemaVersion": 2, "mediaType": media + "manifest.v1+json",
        "config": {"mediaType": media + "config.v1+json", "size": len(config), "digest": layout.blob(config)},
        "layers": [{"mediaType": media + "layer.v1." + media_type, "size": l["size"], "digest": l["digest"]} for l in layers]},
        media + "manifest.v1+json"), tag)


def package_image(work, name):
    path = f"{work}/images/{name}"
    if os.path.exists(path + ".json"):
        return json.load(open(path + ".json"))
    shutil.rmtree(path, ignore_errors=True)
    layout = Layout(path)
    print(f"bench: making image {name}", flush=True)
    base = minbase(work)
    layers = [pack(layout, base)]
    have = {os.path.basename(p).split("_")[0] for p in glob.glob(base + "/var/lib/dpkg/info/*.list")}
    have = {h.rsplit(".", 1)[0].split(":")[0] for h in have}
    for names in SETS[name]:
        tree = work + "/layer"
        shutil.rmtree(tree, ignore_errors=True)
        os.makedirs(tree)
        for deb in sorted(packages(work, names)):
            if deb.split("_")[0] not in have:
                have.add(deb.split("_")[0])
                run("dpkg-deb", "-x", f"{work}/debs/{deb}", tree)
        merge_usr(tree)
        layers.append(pack(layout, tree))
        shutil.rmtree(tree)
    write_image(layout, layers)
    info = {"layout": path, "layers": layers, "blob_bytes": sum(l["size"] for l in layers), "tar_bytes": sum(l["tar"] for l in layers)}
    json.dump(info, open(path + ".json", "w"))
    return info


def million_image(work, count=1000000):
    """One layer of `count` files in a thousand directories; every tenth has some bytes."""
    path = f"{work}/images/million"
    if os.path.exists(path + ".json"):
        return json.load(open(path + ".json"))
    shutil.rmtree(path, ignore_errors=True)
    layout = Layout(path)
    print(f"bench: making an image of {count} files", flush=True)
    raw = path + "/layer.tar"
    with open(raw, "wb") as out:
        for d in range(1000):
            t = Tar()
            t.dir(f"directory-{d:04}")
            for i in range(count // 1000):
                t.file(f"directory-{d:04}/file-{i:06}.txt", b"%d\n" % i if i % 10 == 0 else b"")
            out.write(t.out)
        out.write(b"\0" * 1024)
    with open(raw + ".gz", "wb") as out:
        run("gzip", "-1", "-n", "-c", raw, stdout=out)
    layers = [finish(layout, raw, raw + ".gz")]
    write_image(layout, layers)
    info = {"layout": path, "layers": layers, "blob_bytes": layers[0]["size"], "tar_bytes": layers[0]["tar"]}
    json.dump(info, open(path + ".json", "w"))
    return info


def big_image(work, form, mib):
    """One layer with one file of that size, which compresses like real ones; as gzip, stored, zstd in frames
    of 4 MiB, or zstd-frame, as BuildKit writes it: in one."""
    name = f"big-{form}-{mib}"
    path = f"{work}/images/{name}"
    if os.path.exists(path + ".json"):
        return json.load(open(path + ".json"))
    shutil.rmtree(path, ignore_errors=True)
    layout, raw, tree = Layout(path), path + "/layer.tar", path + "/tree"
    os.makedirs(tree + "/models")
    print(f"bench: making image {name}", flush=True)
    with open(tree + "/models/weights.bin", "wb") as out:
        left = mib << 20
        for folder, folders, files in itertools.cycle(os.walk("/usr/lib")):
            folders.sort()
            for file in sorted(files):
                if left > 0 and os.path.isfile(f"{folder}/{file}") and not os.path.islink(f"{folder}/{file}"):
                    left -= out.write(open(f"{folder}/{file}", "rb").read(left))
            if left <= 0:
                break
    run("tar", "-C", tree, "--sort=name", "--numeric-owner", "-cf", raw, ".")
    shutil.rmtree(tree)
    if form == "stored":
        os.link(raw, raw + ".out")
    elif form == "gzip":
        run("sh", "-c", f"gzip -1 -n <{raw} >{raw}.out")
    elif form == "zstd-frame":
        run("sh", "-c", f"zstd -q -3 <{raw} >{raw}.out")
    else:
        run("split", "-b", "4M", "--filter", "zstd -q -1", raw, stdout=open(raw + ".out", "wb"))
    layers = [finish(layout, raw, raw + ".out")]
    write_image(layout, layers, media_type="tar" if form == "stored" else "tar+" + form.split("-")[0])
    info = {"name": name, "layout": path, "layers": layers, "blob_bytes": layers[0]["size"], "tar_bytes": layers[0]["tar"],
            "file_bytes": mib << 20}
    json.dump(info, open(path + ".json", "w"))
    return info


def variants(work, base, count):
    """`count` images: all layers of `base` and a small one of their own each; tags v0, v1, ..."""
    path = base["layout"]
    if os.path.exists(f"{path}/variants.{count}"):
        return
    layout = Layout(path)
    layout.manifests = json.load(open(path + "/index.json"))["manifests"][:1]
    for i in range(count):
        t = Tar().dir("variant")
        for k in range(50):
            t.file(f"variant/{i}-{k}", random.Random(i * 1000 + k).randbytes(2000))
        blob = gzipped(t.bytes())
        layout.blob(blob)
        own = {"diff_id": sha256(t.bytes()), "digest": sha256(blob), "size": len(blob)}
        write_image(layout, base["layers"] + [own], f"v{i}")
    open(f"{path}/variants.{count}", "w").close()
