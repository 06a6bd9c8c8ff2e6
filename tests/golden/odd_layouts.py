#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""OCI layouts and docker archives with more in them than one image, and what imagefs and skopeo make of them.

odd_layouts.py WORK IMAGEFS...   IMAGEFS: the command with its options
Every image of a case has one file, named like the image. A case says which image its reference means, on a machine
for linux/amd64, or what the refusal says ("!" in front), and whether skopeo finds the same one.
"""
import io
import json
import os
import re
import subprocess
import sys
import tarfile

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from oci import *  # noqa: E402,F403

EMPTY = "application/vnd.oci.empty.v1+json"
NAME = "org.opencontainers.image.ref.name"
UNKNOWN = {"os": "unknown", "architecture": "unknown"}
CASES = {}


def case(name, expected, skopeo, tag=""):
    """skopeo: "same", "refuses", or the name of the image that it finds."""
    def register(function):
        CASES[name] = (function, expected, skopeo, tag)
        return function
    return register


class Builder:
    def __init__(self, path):
        self.layout = Layout(path)
        self.layers = {}  # digest of the layer -> the image's name
        self.entries = []

    def image(self, name, arch="amd64", docker=False, **more):
        layer = Layer(Tar().file(name, name.encode()), LAYER)
        self.layers[layer.diff_id] = name
        descriptor = self.layout.image([layer], ("linux", arch, ""), docker)
        return {**descriptor, **more}

    def bare(self, *args, **more):
        entry = self.image(*args, **more)
        del entry["platform"]
        return entry

    def artifact(self, media, config=EMPTY, artifact_type=None, **more):
        raw = self.layout.blob(b"{}")
        content = {"schemaVersion": 2, "mediaType": MANIFEST, "config": {"mediaType": config, "digest": raw, "size": 2},
                   "layers": [{"mediaType": media, "digest": raw, "size": 2}]}
        if artifact_type:
            content["artifactType"] = artifact_type
        return {**self.layout.manifest(content, MANIFEST), **more}

    def attestation(self, of, **more):
        return self.artifact("application/vnd.in-toto+json", CONFIG, platform=UNKNOWN, annotations={
            "vnd.docker.reference.digest": of["digest"], "vnd.docker.reference.type": "attestation-manifest", **more})

    def write(self, entries, **more):
        with open(self.layout.path + "/index.json", "w") as f:
            json.dump({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries, **more}, f)


def named(entry, name):
    return {**entry, "annotations": {**entry.get("annotations", {}), NAME: name}}


@case("one", "a", "same")
def one(b):
    b.write([b.image("a")])


@case("attested", "a", "refuses")
def attested(b):
    a, arm = b.image("a"), b.image("arm", "arm64")
    b.write([a, arm, b.attestation(a), b.attestation(arm)])


@case("attested-first", "a", "refuses")
def attested_first(b):
    a = b.bare("a")
    b.write([b.attestation(a), a])


@case("attested-and-named", "a", "same", "latest")
def attested_and_named(b):
    a, arm = b.image("a"), b.image("arm", "arm64")
    b.write([named(e, "latest") for e in (a, arm, b.attestation(a), b.attestation(arm))])


@case("nested", "a", "same")
def nested(b):
    a, arm = b.image("a"), b.image("arm", "arm64")
    b.write([b.layout.index([arm, a, b.attestation(a)])])


@case("nested-and-artifact", "a", "refuses")
def nested_and_artifact(b):
    b.write([b.layout.index([b.image("arm", "arm64"), b.image("a")]),
             b.artifact("application/spdx+json", artifact_type="application/spdx+json", artifactType="application/spdx+json")])


@case("artifact-of-type", "a", "refuses")
def artifact_of_type(b):
    b.write([b.artifact("text/x", artifactType="text/x"), b.bare("a")])


@case("artifact-unnamed", "a", "refuses")
def artifact_unnamed(b):
    b.write([b.artifact("application/spdx+json"), b.bare("a")])


@case("cosign", "a", "refuses")
def cosign(b):
    kind = lambda what: {"annotations": {"kind": "dev.cosignproject.cosign/" + what}}
    signature = lambda what: b.artifact("application/vnd.dev.cosign.simplesigning.v1+json", CONFIG, **kind(what))
    b.write([b.bare("a", **kind("image")), signature("sigs"), signature("atts")])


@case("cosign-older", "a", "refuses")
def cosign_older(b):
    b.write([b.bare("a"), b.artifact("application/vnd.dev.cosign.simplesigning.v1+json", CONFIG)])


@case("twice", "a", "refuses")
def twice(b):
    a = b.bare("a")
    b.write([a, a])


@case("two-names-of-one", "a", "refuses")
def two_names_of_one(b):
    a = b.bare("a")
    b.write([named(a, "1"), named(a, "2")])


@case("two", r"!one of 2 images; choose one by its place \(@0, @1\)", "refuses")
def two(b):
    b.write([b.bare("a"), b.bare("b")])


@case("two-named", r"!choose one by its name \(one, two\) or by its place \(@0, @2\)", "refuses")
def two_named(b):
    a = b.bare("a")
    b.write([named(a, "one"), b.attestation(a), named(b.bare("b"), "two")])


@case("one-name-twice", r"!choose one by its place \(@0, @1\)", "a", "x")
def one_name_twice(b):
    b.write([named(b.bare("a"), "x"), named(b.bare("b"), "x")])


@case("by-place", "b", "refuses", "@2")
def by_place(b):
    a = b.bare("a")
    b.write([a, b.attestation(a), b.bare("b")])


@case("only-artifact", "sha256-44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a", "refuses")
def only_artifact(b):
    """One, although it is listed twice."""
    b.write([b.artifact("text/x", artifactType="text/x"), b.artifact("text/x", artifactType="text/y")])


@case("two-artifacts", "!", "refuses")
def two_artifacts(b):
    b.write([b.artifact("text/x", artifactType="text/x"), b.artifact("text/z", artifactType="text/y")])


@case("null", "!has no image", "refuses")
def null(b):
    b.write(None)


@case("none", "!has no image", "refuses")
def none(b):
    b.write([])


@case("mixed-types", "a", "same")
def mixed_types(b):
    entry = b.image("a", docker=True)
    b.write([{**entry, "mediaType": MANIFEST}])


@case("index-as-manifest", "!it was announced as", "refuses")
def index_as_manifest(b):
    b.write([{**b.layout.index([b.image("a")]), "mediaType": MANIFEST}])


# ---- docker archives: (file, content) pairs

def saved(b, name, config_name=None, layer_name="l/layer.tar", extra=()):
    tar = Tar().file(name, name.encode()).bytes()
    b.layers[sha256(tar)] = name
    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [sha256(tar)]}}).encode()
    config_name = config_name or sha256(config)[7:] + ".json"
    return [(config_name, config), (layer_name, tar), *extra,
            ("manifest.json", json.dumps([{"Config": config_name, "RepoTags": ["a:b"], "Layers": [layer_name]}]).encode())]


@case("docker-plain", "a", "same")
def docker_plain(b):
    return saved(b, "a")


@case("docker-edited", "a", "same")
def docker_edited(b):
    return saved(b, "a", "0" * 64 + ".json")


@case("docker-edited-in-blobs", "a", "same")
def docker_edited_in_blobs(b):
    return saved(b, "a", "blobs/sha256/" + "1" * 64, "blobs/sha256/" + "2" * 64)


def run(*command):
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
    return result.returncode, result.stdout.decode(errors="replace").strip()


def of_imagefs(imagefs, place, reference):
    status, text = run(*imagefs, "mount", "-q", "--platform", "linux/amd64", reference, place)
    if status != 0:
        return "!" + text
    names = os.listdir(place)
    run(*imagefs, "umount", place)
    return " ".join(names)


def of_skopeo(work, reference, layers):
    out = work + "/copy"
    subprocess.run(["rm", "-rf", out], check=True)
    status, text = run("skopeo", "--insecure-policy", "--override-os", "linux", "--override-arch", "amd64", "copy", reference, "dir:" + out)
    if status != 0:
        return "!" + text
    return " ".join(layers.get(l["digest"], "?") for l in json.load(open(out + "/manifest.json"))["layers"])


def main(args):
    work, imagefs = args[0], args[1:]
    os.makedirs(work + "/place", exist_ok=True)
    bad = 0
    for name, (function, expected, skopeo, tag) in CASES.items():
        path = f"{work}/{name}"
        builder = Builder(path)
        files = function(builder)
        reference = f"oci:{path}"
        if files is not None:
            with tarfile.open(path + ".tar", "w") as t:
                for member, content in files:
                    info = tarfile.TarInfo(member)
                    info.size = len(content)
                    t.addfile(info, io.BytesIO(content))
            reference = f"docker-archive:{path}.tar"
        full = reference + (":" + tag if tag else "")
        mine, theirs = of_imagefs(imagefs, work + "/place", full), of_skopeo(work, full, builder.layers)
        right = re.search(expected[1:], mine) if expected[0] == "!" else mine == expected
        want = {"same": expected, "refuses": "!"}.get(skopeo, skopeo)
        if not right or (theirs[:1] != "!" if want == "!" else theirs != want):
            print(f"{name}: imagefs {mine!r}, expected {expected!r}; skopeo {theirs!r}, expected {want!r}")
            bad += 1
    print(f"{len(CASES)} layouts and archives, {bad} not as said")
    sys.exit(1 if bad else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
