#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Builds OCI images byte by byte, writes them as layouts and archives, and pushes them to a registry.

The tar writer is the project's own because tests need archives that no well-behaved tool writes.
Command line:
  oci.py push LAYOUT[:TAG] HOST/REPO:TAG [--user USER:PASSWORD] [--ca FILE]
  oci.py archive LAYOUT FILE            an oci-archive
  oci.py docker-archive LAYOUT FILE NAME:TAG
  oci.py host-image LAYOUT PROGRAM...   this machine's programs with their libraries, below a layer of ours
"""
import base64
import gzip
import hashlib
import http.client
import io
import json
import os
import platform
import re
import shutil
import ssl
import subprocess
import sys
import tarfile
import urllib.parse
import zlib

OCI = "application/vnd.oci.image."
DOCKER = "application/vnd.docker."
MANIFEST, INDEX, CONFIG = OCI + "manifest.v1+json", OCI + "index.v1+json", OCI + "config.v1+json"
LAYER, LAYER_GZIP, LAYER_ZSTD = (OCI + "layer.v1.tar" + s for s in ("", "+gzip", "+zstd"))
DOCKER_MANIFEST = DOCKER + "distribution.manifest.v2+json"
DOCKER_LIST = DOCKER + "distribution.manifest.list.v2+json"
DOCKER_CONFIG = DOCKER + "container.image.v1+json"
DOCKER_LAYER = DOCKER + "image.rootfs.diff.tar.gzip"

T0 = 1600000000  # modification time of what does not say otherwise


def sha256(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def as_bytes(text):
    return text if isinstance(text, bytes) else text.encode()


class Tar:
    """An archive under construction. Formats: pax (default), gnu, ustar, v7."""

    def __init__(self):
        self.out = bytearray()
        self.names = []  # (cleaned path, type) of each entry, for those who reason about the result

    @staticmethod
    def number(value, width, base256=False):
        if not base256 and 0 <= value < 8 ** (width - 1):
            return b"%0*o\0" % (width - 1, value)
        raw = value.to_bytes(width, "big", signed=value < 0)
        return bytes([raw[0] | 0x80]) + raw[1:]

    @staticmethod
    def records(records):
        out = b""
        for key, value in records:
            key, value = as_bytes(key), as_bytes(value)
            body = b" " + key + b"=" + value + b"\n"
            size = len(body) + 1
            while len(b"%d" % size) + len(body) != size:
                size = len(b"%d" % size) + len(body)
            out += b"%d" % size + body
        return out

    def block(self, data):
        self.out += data + b"\0" * (-len(data) % 512)

    def header(self, name, kind, mode=0o644, uid=0, gid=0, size=0, mtime=T0, link=b"", dev=(0, 0),
               fmt="pax", prefix=b"", patch=None, base256=False):
        head = bytearray(512)

        def put(at, data):
            head[at:at + len(data)] = data
        put(0, name[:100])
        put(100, self.number(mode, 8))
        put(108, self.number(uid, 8, base256))
        put(116, self.number(gid, 8, base256))
        put(124, self.number(size, 12))
        put(136, self.number(mtime, 12))
        put(156, kind)
        put(157, link[:100])
        if fmt == "gnu":
            put(257, b"ustar  \0")
        elif fmt != "v7":
            put(257, b"ustar\00000")
            put(345, prefix[:155])
        if fmt != "v7":
            put(329, self.number(dev[0], 8))
            put(337, self.number(dev[1], 8))
        for at, data in (patch or {}).items():
            put(at, data)
        put(148, b" " * 8)
        put(148, b"%06o\0 " % sum(head))
        self.out += head

    def add(self, name, kind="0", mode=None, data=b"", link=b"", mtime=T0, fmt="pax", xattrs=None, pax=None,
            uid=0, gid=0, size=None, prefix=b"", patch=None, base256=False, dev=(0, 0)):
        name, link, kind, data = as_bytes(name), as_bytes(link), as_bytes(kind), as_bytes(data)
        if mode is None:
            mode = 0o755 if kind == b"5" else 0o777 if kind == b"2" else 0o644
        full = prefix + b"/" + name if prefix else name
        self.names.append((os.path.normpath(b"/" + full).lstrip(b"/"), kind))
        records = list((pax or {}).items())
        records += [(b"SCHILY.xattr." + as_bytes(k), v) for k, v in (xattrs or {}).items()]
        if fmt == "pax":
            given = {as_bytes(k) for k, _ in records}
            if len(name) > 100 and b"path" not in given:
                records.append(("path", name))
            if len(link) > 100 and b"linkpath" not in given:
                records.append(("linkpath", link))
            if not isinstance(mtime, int):
                records.append(("mtime", mtime))
                mtime = 0
            elif mtime < 0:
                records.append(("mtime", str(mtime)))
                mtime = 0
        elif fmt == "gnu":
            for kind_long, text in ((b"K", link), (b"L", name)):
                if len(text) > 100:
                    self.header(b"././@LongLink", kind_long, size=len(text) + 1, fmt="gnu")
                    self.block(text + b"\0")
        if records:
            body = self.records(records)
            self.header(b"PaxHeaders/" + name[:80], b"x", size=len(body))
            self.block(body)
        self.header(name, kind, mode, uid, gid, len(data) if size is None else size, mtime, link, dev, fmt,
                    prefix, patch, base256)
        self.block(data)
        return self

    def pax(self, records, kind="x", name=b"PaxHeaders/odd"):
        """A PAX header by itself; records: bytes as they are, or pairs."""
        body = records if isinstance(records, bytes) else self.records(records)
        self.header(as_bytes(name), as_bytes(kind), size=len(body))
        self.block(body)
        return self

    def gnu_long(self, text, kind="L"):
        body = as_bytes(text) + b"\0"
        self.header(b"././@LongLink", as_bytes(kind), size=len(body), fmt="gnu")
        self.block(body)
        return self

    def dir(self, name, **kw):
        return self.add(name, "5", **kw)

    def file(self, name, data=b"", **kw):
        return self.add(name, "0", data=data, **kw)

    def symlink(self, name, target, **kw):
        return self.add(name, "2", link=target, **kw)

    def hardlink(self, name, target, **kw):
        return self.add(name, "1", link=target, **kw)

    def whiteout(self, name):
        path, _, base = as_bytes(name).rpartition(b"/")
        return self.add((path + b"/" if path else b"") + b".wh." + base)

    def opaque(self, directory):
        return self.add(as_bytes(directory) + b"/.wh..wh..opq")

    def sparse_gnu(self, name, size, segments, **kw):
        """segments: [(offset, data)]; the old GNU form, type S, with extension blocks as needed."""
        pairs = [(o, len(d)) for o, d in segments]
        field = b"".join(self.number(o, 12) + self.number(n, 12) for o, n in pairs[:4])
        rest = pairs[4:]
        patch = {386: field, 482: b"\1" if rest else b"\0", 483: self.number(size, 12)}
        body = b"".join(d for _, d in segments)
        extension = b""
        while rest:
            part, rest = rest[:21], rest[21:]
            extension += b"".join(self.number(o, 12) + self.number(n, 12) for o, n in part).ljust(504, b"\0")
            extension += (b"\1" if rest else b"\0").ljust(8, b"\0")
        self.names.append((as_bytes(name), b"0"))
        self.header(as_bytes(name), b"S", size=len(body), fmt="gnu", patch=patch, **kw)
        self.out += extension
        self.block(body)
        return self

    def sparse_pax(self, name, size, segments, version, **kw):
        pairs = [(o, len(d)) for o, d in segments]
        body = b"".join(d for _, d in segments)
        if version == "0.0":
            records = [("GNU.sparse.size", str(size)), ("GNU.sparse.numblocks", str(len(pairs)))]
            for offset, length in pairs:
                records += [("GNU.sparse.offset", str(offset)), ("GNU.sparse.numbytes", str(length))]
        elif version == "0.1":
            flat = ",".join(f"{o},{n}" for o, n in pairs)
            records = [("GNU.sparse.size", str(size)), ("GNU.sparse.numblocks", str(len(pairs))),
                       ("GNU.sparse.name", name), ("GNU.sparse.map", flat)]
        else:
            table = b"%d\n" % len(pairs) + b"".join(b"%d\n%d\n" % p for p in pairs)
            body = table + b"\0" * (-len(table) % 512) + body
            records = [("GNU.sparse.major", "1"), ("GNU.sparse.minor", "0"), ("GNU.sparse.name", name),
                       ("GNU.sparse.realsize", str(size))]
        stored = name if version == "0.0" else "GNUSparseFile.1/" + os.path.basename(name)
        packed = self.records(records)
        self.names.append((as_bytes(name), b"0"))
        self.header(b"PaxHeaders/sparse", b"x", size=len(packed))
        self.block(packed)
        self.header(as_bytes(stored), b"0", size=len(body), **kw)
        self.block(body)
        return self

    def bytes(self, end=True):
        return bytes(self.out) + (b"\0" * 1024 if end else b"")


def gzipped(data, level=6):
    return gzip.compress(data, level, mtime=0)


def zstded(data):
    return subprocess.run(["zstd", "-q", "-c", "-3"], input=data, stdout=subprocess.PIPE, check=True).stdout


class Layer:
    """media: its type in the manifest; blob: its bytes there; diff_id: of the tar inside."""

    def __init__(self, tar, media=LAYER_GZIP, blob=None, diff_id=None):
        self.tar = tar if isinstance(tar, bytes) else tar.bytes()
        self.names = [] if isinstance(tar, bytes) else tar.names
        self.media = media
        if blob is None:
            blob = zstded(self.tar) if media.endswith("zstd") else \
                gzipped(self.tar) if media.endswith("gzip") else self.tar
        self.blob = blob
        self.diff_id = diff_id or sha256(self.tar)


class Layout:
    """An OCI layout directory."""

    def __init__(self, path):
        self.path = str(path)
        os.makedirs(self.path + "/blobs/sha256", exist_ok=True)
        self.manifests = []
        with open(self.path + "/oci-layout", "w") as f:
            f.write('{"imageLayoutVersion": "1.0.0"}')

    def blob(self, data, digest=None):
        digest = digest or sha256(data)
        with open(f"{self.path}/blobs/sha256/{digest.split(':')[1]}", "wb") as f:
            f.write(data)
        return digest

    def image(self, layers, platform=("linux", "amd64", ""), docker=False, config_extra=None, annotations=None):
        """Writes config and manifest; returns the manifest's descriptor."""
        config = {"architecture": platform[1], "os": platform[0], "config": {"Env": ["PATH=/bin:/usr/bin"]},
                  "rootfs": {"type": "layers", "diff_ids": [l.diff_id for l in layers]},
                  "history": [{"created_by": "test"} for _ in layers]}
        if platform[2]:
            config["variant"] = platform[2]
        config.update(config_extra or {})
        raw = json.dumps(config).encode()
        manifest = {
            "schemaVersion": 2, "mediaType": DOCKER_MANIFEST if docker else MANIFEST,
            "config": {"mediaType": DOCKER_CONFIG if docker else CONFIG, "size": len(raw), "digest": self.blob(raw)},
            "layers": [{"mediaType": DOCKER_LAYER if docker and l.media == LAYER_GZIP else l.media,
                        "size": len(l.blob), "digest": self.blob(l.blob)} for l in layers]}
        if annotations:
            manifest["annotations"] = annotations
        descriptor = self.manifest(manifest, manifest["mediaType"])
        descriptor["platform"] = {"os": platform[0], "architecture": platform[1]}
        if platform[2]:
            descriptor["platform"]["variant"] = platform[2]
        return descriptor

    def manifest(self, content, media):
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        return {"mediaType": media, "size": len(raw), "digest": self.blob(raw)}

    def index(self, descriptors, docker=False):
        media = DOCKER_LIST if docker else INDEX
        return self.manifest({"schemaVersion": 2, "mediaType": media, "manifests": descriptors}, media)

    def tag(self, descriptor, name="latest"):
        entry = {k: v for k, v in descriptor.items() if k != "platform"}
        entry["annotations"] = {"org.opencontainers.image.ref.name": name}
        self.manifests.append(entry)
        with open(self.path + "/index.json", "w") as f:
            json.dump({"schemaVersion": 2, "manifests": self.manifests}, f)


def simple_image(path, layers, tag="latest", **kw):
    layout = Layout(path)
    layout.tag(layout.image([l if isinstance(l, Layer) else Layer(l) for l in layers], **kw), tag)
    return layout


class Registry:
    """Just enough of the distribution protocol to push."""

    def __init__(self, host, user=None, ca=None):
        self.headers = {}
        if user:
            self.headers["Authorization"] = "Basic " + base64.b64encode(user.encode()).decode()
        self.host = host
        if ca:
            self.connection = http.client.HTTPSConnection(host, context=ssl.create_default_context(cafile=ca))
        else:
            self.connection = http.client.HTTPConnection(host)

    def ask(self, method, path, body=None, headers=None):
        self.connection.request(method, path, body=body, headers={**self.headers, **(headers or {})})
        answer = self.connection.getresponse()
        return answer.status, answer.headers, answer.read()

    def push_blob(self, repository, path, digest):
        if self.ask("HEAD", f"/v2/{repository}/blobs/{digest}")[0] == 200:
            return
        status, headers, text = self.ask("POST", f"/v2/{repository}/blobs/uploads/", b"")
        if status != 202:
            raise SystemExit(f"push: {status} {text!r}")
        place = urllib.parse.urlsplit(headers["Location"])
        query = (place.query + "&" if place.query else "") + "digest=" + digest
        with open(path, "rb") as f:
            status, _, text = self.ask("PUT", f"{place.path}?{query}", f, {
                "Content-Type": "application/octet-stream", "Content-Length": str(os.path.getsize(path))})
        if status != 201:
            raise SystemExit(f"push of {digest}: {status} {text!r}")

    def push_manifest(self, repository, raw, media, tag):
        status, _, text = self.ask("PUT", f"/v2/{repository}/manifests/{tag}", raw, {"Content-Type": media})
        if status != 201:
            raise SystemExit(f"push of manifest {tag}: {status} {text!r}")

    def push(self, layout, descriptor, repository, tag):
        def blob_path(digest):
            return f"{layout}/blobs/sha256/{digest.split(':')[1]}"
        raw = open(blob_path(descriptor["digest"]), "rb").read()
        content = json.loads(raw)
        for child in content.get("manifests", []):
            self.push(layout, child, repository, child["digest"])
        for blob in [content[k] for k in ("config",) if k in content] + content.get("layers", []):
            self.push_blob(repository, blob_path(blob["digest"]), blob["digest"])
        self.push_manifest(repository, raw, descriptor["mediaType"], tag)


def of_platforms(path):
    """Puts the image of a layout, which is this machine's, into an index of platforms."""
    index = json.load(open(path + "/index.json"))
    entry = index["manifests"][0]
    entry["platform"] = {"os": "linux", "architecture": {"x86_64": "amd64", "aarch64": "arm64"}[platform.machine()]}
    media = "application/vnd.oci.image.index.v1+json"
    body = json.dumps({"schemaVersion": 2, "mediaType": media, "manifests": [entry]}).encode()
    digest = hashlib.sha256(body).hexdigest()
    with open(path + "/blobs/sha256/" + digest, "wb") as blob:
        blob.write(body)
    index["manifests"] = [{"mediaType": media, "digest": "sha256:" + digest, "size": len(body)}]
    with open(path + "/index.json", "w") as file:
        json.dump(index, file)


def find_tag(layout, tag):
    manifests = json.load(open(layout + "/index.json"))["manifests"]
    for entry in manifests:
        if tag is None or entry.get("annotations", {}).get("org.opencontainers.image.ref.name") == tag:
            return entry
    raise SystemExit(f"{layout} has no tag {tag}")


def docker_archive(layout, file, name):
    """As `docker save` writes it: manifest.json, the config, uncompressed layers."""
    read = lambda digest: open(f"{layout}/blobs/sha256/{digest.split(':')[1]}", "rb").read()
    manifest = json.loads(read(find_tag(layout, None)["digest"]))
    config = read(manifest["config"]["digest"])
    with tarfile.open(file, "w") as tar:
        def put(path, data):
            info = tarfile.TarInfo(path)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
        layers = []
        for i, layer in enumerate(manifest["layers"]):
            data = read(layer["digest"])
            if data[:2] == b"\x1f\x8b":
                data = gzip.decompress(data)
            layers.append(f"layer{i}/layer.tar")
            put(layers[-1], data)
        config_name = hashlib.sha256(config).hexdigest() + ".json"
        put(config_name, config)
        put("manifest.json", json.dumps([{"Config": config_name, "RepoTags": [name], "Layers": layers}]).encode())


def host_tar(programs):
    """Programs of this machine, in /bin, with the libraries that they ask for."""
    files = {}
    for name in programs:
        program = shutil.which(name)
        files["/bin/" + name] = open(program, "rb").read()
        for library in re.findall(r"(/\S+) \(0x", subprocess.check_output(["ldd", program], text=True)):
            files[library] = open(library, "rb").read()
    low, made = Tar(), set()
    for name, data in sorted(files.items()):
        parts = name.split("/")[1:-1]
        for i in range(len(parts)):
            directory = "/".join(parts[:i + 1])
            if directory not in made:
                made.add(directory)
                low.dir(directory)
        low.file(name, data, mode=0o755)
    return low


def host_image(path, programs):
    """Two layers: programs of this machine; and /hello and /tmp."""
    high = Tar().dir("tmp", mode=0o1777).file("hello", b"hello from the image\n")
    return simple_image(path, [host_tar(programs), high])


def main(args):
    def option(name):
        if name in args:
            at = args.index(name)
            value = args[at + 1]
            del args[at:at + 2]
            return value
        return None
    user, ca = option("--user"), option("--ca")
    if args[0] == "push":
        layout, _, tag = args[1].partition(":")
        host, _, rest = args[2].partition("/")
        repository, _, to = rest.rpartition(":")
        Registry(host, user, ca).push(layout, find_tag(layout, tag or None), repository, to)
    elif args[0] == "archive":
        with tarfile.open(args[2], "w") as tar:
            tar.add(args[1], arcname=".")
    elif args[0] == "docker-archive":
        docker_archive(*args[1:4])
    elif args[0] == "host-image":
        host_image(args[1], args[2:])
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
