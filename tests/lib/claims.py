#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Hostile images for the tests of trust (tests/security): they claim the DiffIDs of genuine ones.

  claims.py tables OUT          OUT/genuine, OUT/estargz, OUT/chunked: one layer each; the latter two have
                                 tables of contents of other files and claim the DiffID of the first
  claims.py twins OUT           OUT/real, OUT/fake: equally large layers of equal names, other bytes and modes
  claims.py twins-estargz OUT   OUT/legit, OUT/evil: both eStargz, of which the second claims the first's DiffID
  claims.py thief LAYOUT HOST TO             pushes TO:1, which claims all DiffIDs of the image and has none of
                                 its blobs
  claims.py liar LAYOUT DIR     a registry that has TO/x:1, an image that claims all DiffIDs and names all blobs of
                                 the one in LAYOUT; it says of every blob that it is there, and sends
                                 nonsense. Its port is written to DIR/port, what it was asked to DIR/log
  claims.py claim HOST FAKE REAL TO [blob]   pushes TO:1: the blob and the published index of test/FAKE under
                                 the DiffID of test/REAL; with `blob`, under the blob's name as well
"""
import http.server
import json
import os
import random
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from lazy import *  # noqa: E402,F403
from oci import *  # noqa: E402,F403

PADDING = [(0, "pad", "5", {})] + [
    (0, f"pad/{i}", "0", {"data": random.Random(i).randbytes(200000)}) for i in range(20)]


def files(word, mode):
    return [(0, "bin", "5", {}), (0, "bin/login", "0", {"data": word * 1000, "mode": mode})] + PADDING


def with_annotations(layout, layer):
    """Tags an image of that layer; its table is named by the manifest."""
    made = Layout(layout)
    path = f"{layout}/blobs/sha256/" + made.image([layer])["digest"][7:]
    manifest = json.load(open(path))
    os.remove(path)
    manifest["layers"][0]["annotations"] = layer.annotations
    made.tag(made.manifest(manifest, MANIFEST))


def tables(out):
    tar = tar_of(files(b"GENUINE ", 0o755), 0).bytes()
    genuine = Layer(tar, LAYER_GZIP, gzipped(tar))
    layout = Layout(out + "/genuine")
    layout.tag(layout.image([genuine]))
    for name, chunked in (("estargz", False), ("chunked", True)):
        layer = TocLayer(files(b"HOSTILE ", 0o4755), 0, chunked)
        layer.diff_id = genuine.diff_id
        with_annotations(f"{out}/{name}", layer)


def twins(out):
    for name, word, mode in (("real", b"GENUINE ", 0o755), ("fake", b"HOSTILE ", 0o4755)):
        tar = tar_of(files(word, mode), 0).bytes()
        layout = Layout(f"{out}/{name}")
        layout.tag(layout.image([Layer(tar, LAYER_GZIP, gzipped(tar))]))


def twins_estargz(out):
    legit = TocLayer(files(b"GENUINE ", 0o755), 0, False)
    evil = TocLayer(files(b"HOSTILE ", 0o4755), 0, False)
    evil.diff_id = legit.diff_id
    with_annotations(out + "/legit", legit)
    with_annotations(out + "/evil", evil)


def put(registry, repository, data):
    with tempfile.NamedTemporaryFile() as file:
        file.write(data)
        file.flush()
        registry.push_blob(repository, file.name, sha256(data))
    return {"digest": sha256(data), "size": len(data)}


def manifest_of(registry, repository, tag):
    return json.loads(registry.ask("GET", f"/v2/{repository}/manifests/{tag}", headers={"Accept": MANIFEST})[2])


def blob_of(registry, repository, descriptor):
    return registry.ask("GET", f"/v2/{repository}/blobs/{descriptor['digest']}")[2]


def stolen(layout, to):
    """Manifest and configuration of an image that claims what the one in the layout has."""
    def read(digest):
        return json.load(open(f"{layout}/blobs/sha256/{digest[7:]}"))
    manifest = read(json.load(open(layout + "/index.json"))["manifests"][0]["digest"])
    config = read(manifest["config"]["digest"])
    config["config"] = {"Labels": {"of": to}}
    for layer in manifest["layers"]:
        layer.pop("annotations", None)
    raw = json.dumps(config).encode()
    manifest["config"].update(digest=sha256(raw), size=len(raw))
    return manifest, raw


def thief(layout, host, to):
    registry = Registry(host)
    manifest, config = stolen(layout, to)
    put(registry, to, config)
    for number, layer in enumerate(manifest["layers"]):
        layer.update(put(registry, to, b"nothing %d" % number))
    registry.push_manifest(to, json.dumps(manifest).encode(), MANIFEST, "1")


def liar(layout, directory):
    manifest, config = stolen(layout, "liar")
    raw = json.dumps(manifest).encode()
    sizes = {layer["digest"]: layer["size"] for layer in manifest["layers"]}

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            with open(directory + "/log", "a") as file:
                print(self.command, self.path, file=file)

        def answer(self, status, body, media="application/octet-stream"):
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Content-Type", media)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def do_GET(self):
            name = self.path.rsplit("/", 1)[1]
            if self.path == "/v2/":
                return self.answer(200, b"")
            if "/manifests/" in self.path and name in ("1", sha256(raw)):
                return self.answer(200, raw, MANIFEST)
            if name == manifest["config"]["digest"]:
                return self.answer(200, config)
            if name in sizes:
                return self.answer(200, random.Random(name).randbytes(sizes[name]))
            return self.answer(404, b"{}")

        do_HEAD = do_GET

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    with open(directory + "/port.new", "w") as file:
        file.write(str(server.server_address[1]))
    os.rename(directory + "/port.new", directory + "/port")
    server.serve_forever()


def bent(bundle, old, new):
    """The layer index with digests replaced, and checksums that fit."""
    head, index, access, pieces = unpack_index(bundle)
    for a, b in zip(old, new):
        index = bytearray(bytes(index).replace(a[7:].encode(), b[7:].encode()))
        head, access = (bytearray(bytes(part).replace(bytes.fromhex(a[7:]), bytes.fromhex(b[7:]))) for part in (head, access))
    covered = 1 << index[1036]
    covered = covered - 1024 if covered > 1024 else covered
    struct.pack_into("<I", index, 1028, 0)
    struct.pack_into("<I", index, 1028, crc32c(index[1024:1024 + covered]))
    return pack_index([head, index, access, pieces])


def claim(host, fake, real, to, *more):
    registry = Registry(host)
    theirs, ours = (manifest_of(registry, f"test/{name}", "1") for name in (real, fake))
    diff_ids = [json.loads(blob_of(registry, f"test/{name}", m["config"]))["rootfs"]["diff_ids"][0]
                for name, m in ((real, theirs), (fake, ours))]
    subject = registry.ask("GET", f"/v2/test/{fake}/manifests/1", headers={"Accept": MANIFEST})[2]
    artifact = manifest_of(registry, f"test/{fake}", f"sha256-{sha256(subject)[7:]}.imagefs")
    layer = ours["layers"][0]
    blob = blob_of(registry, f"test/{fake}", layer)
    named = theirs["layers"][0] if more else layer
    described, *others = artifact["layers"]
    bundle = bent(blob_of(registry, f"test/{fake}", described),
                  [diff_ids[1], layer["digest"]], [diff_ids[0], named["digest"]])
    config = json.loads(blob_of(registry, f"test/{fake}", ours["config"]))
    config["rootfs"]["diff_ids"] = [diff_ids[0]]
    ours["config"].update(put(registry, to, json.dumps(config).encode()))
    put(registry, to, blob)
    raw = json.dumps(ours).encode()
    registry.push_manifest(to, raw, MANIFEST, "1")
    annotations = {"dev.imagefs.layer": layer["digest"], "dev.imagefs.diff-id": diff_ids[0]}
    windows = [dict(other, **put(registry, to, blob_of(registry, f"test/{fake}", other))) for other in others
               if other["mediaType"] == LAYER_WINDOWS and other["annotations"]["dev.imagefs.layer"] == layer["digest"]]
    artifact["layers"] = [dict(described, annotations=annotations, **put(registry, to, bundle)), *windows]
    artifact["subject"] = {"mediaType": MANIFEST, "digest": sha256(raw), "size": len(raw)}
    put(registry, to, b"{}")
    registry.push_manifest(to, json.dumps(artifact).encode(), MANIFEST, f"sha256-{sha256(raw)[7:]}.imagefs")


if __name__ == "__main__":
    {"tables": tables, "twins": twins, "twins-estargz": twins_estargz, "thief": thief,
     "liar": liar, "claim": claim}[sys.argv[1]](*sys.argv[2:])
