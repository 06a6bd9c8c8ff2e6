#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Images, readers, lies and judgements for tests of layers that are shown before their bytes are here.

  lazy.py image LAYOUT FORMAT [SEED [MIB]]   an image of two layers that have everything a layer may have;
                FORMAT: gzip, zstd (frames of 128 KiB), zstd-one (one frame), estargz, chunked (zstd:chunked).
                Equal seeds and sizes give equal trees in every format
  lazy.py large LAYOUT FORMAT MIB            one layer whose file usr/lib/large, of random bytes, cannot be read in
                parts: FORMAT is zstd (one frame), gzip (one deflate block) or estargz (one chunk)
  lazy.py system LAYOUT MIB                  one layer of this machine's own /usr
  lazy.py bytes REQUESTS LAYOUT              bytes of this image's layers that a shaper has sent
  lazy.py once REQUESTS LAYOUT [BYTES]       no byte of a layer was sent twice; neighbouring spans share one.
                BYTES more of each layer may have been: the tail that a table of contents was looked for in
  lazy.py readers TRUTH DIR... [--readers N] [--seed S]    N processes read every file of every DIR, in
                pieces, in an order of their own, and compare with TRUTH
  lazy.py file LAYOUT LAYER PATH             "BEGIN END": about where a file's bytes are in a layer's gzip blob
  lazy.py manifest HOST/REPOSITORY TAG       the manifest, and its digest on stderr
  lazy.py lie HOST/REPOSITORY IMAGE HOW      puts a published index that lies in the place of the right one; IMAGE
                is the manifest's digest, HOW: digest (of every span), mode (of a file), other (table of another blob),
                pack (one byte of the first page of a hot pack, whose header is right), windows (no piece of them has
                its digest), absent (nobody has the blob of the windows), places (no span begins at that bit). old: no lie, but the form of earlier versions
"""
import glob
import gzip
import hashlib
import json
import os
import random
import re
import struct
import subprocess
import sys
import tempfile
import time
import zlib
from base64 import b64encode

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import oci
from oci import *
from requests import read, spans

# A file that the tool `lie` finds again by its size and mode.
MARKED_SIZE, MARKED_MODE = 12347, 0o4711


def entries(seed, mib):
    """[(layer, name, kind, attributes)] of an image; names as in a tar, without slashes at the end."""
    rng = random.Random(f"{seed} {mib}")
    words = [("".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) + " ").encode() for _ in range(3000)]

    def text(size):
        return b"".join(rng.choices(words, k=size // 4 + 1))[:size]
    out = []

    def add(layer, name, kind, **attributes):
        out.append((layer, name, kind, attributes))
    for name in ("etc", "usr", "usr/bin", "usr/lib", "usr/share", "usr/share/doc", "var", "var/gone"):
        add(0, name, "5")
    add(0, "tmp", "5", mode=0o1777)
    for size in (0, 1, 511, 512, 513, 4095, 4096, 4097):
        add(0, f"etc/{size}", "0", data=text(size))
    add(0, "usr/bin/marked", "0", data=text(MARKED_SIZE), mode=MARKED_MODE)
    add(0, "etc/owned", "0", data=b"mine\n", uid=1000, gid=70000, mode=0o640)
    add(0, "etc/n\u00e4me with space", "0", data=b"name\n", mtime=1)
    add(0, "etc/attributes", "0", data=b"a", xattrs={"user.note": b"\x00\xff binary"})
    add(0, "etc/link", "2", link="../usr/lib")
    add(0, "usr/lib/" + "long" * 30, "0", data=text(3000))
    add(0, "usr/bin/hard", "1", link="usr/bin/marked", mode=MARKED_MODE)
    add(0, "var/pipe", "6", mode=0o600)
    add(0, "var/null", "3", dev=(1, 3), mode=0o666)
    add(0, "var/gone/file", "0", data=text(9000))
    add(0, "var/removed", "0", data=text(7000))
    add(0, "usr/lib/zeros", "0", data=bytes(300000))
    add(0, "usr/lib/random", "0", data=rng.randbytes(int(mib * 0.1 * (1 << 20))))
    left, number = int(mib * (1 << 20)) - 300000, 0
    while left > 0:
        size = min(left, int(rng.paretovariate(0.7) * 2500), 700000)
        add(0, f"usr/share/doc/{number // 40}/{number}" if number % 40 else f"usr/share/doc/{number // 40}", "0" if number % 40 else "5",
            **({"data": text(size)} if number % 40 else {}))
        left -= size
        number += 1
    add(1, "etc", "5", mode=0o750)
    add(1, "etc/512", "0", data=b"replaced\n")
    add(1, "var/.wh.removed", "0")
    add(1, "var/gone", "5")
    add(1, "var/gone/.wh..wh..opq", "0")
    add(1, "var/gone/new", "0", data=text(20000))
    for k in range(30):
        add(1, f"usr/lib/upper{k}", "0", data=text(30000))
    return out


def tar_of(listed, layer):
    tar = Tar()
    for where, name, kind, attributes in listed:
        if where == layer:
            tar.add(name + ("/" if kind == "5" else ""), kind, **attributes)
    return tar


def zstd_frames(data, size=128 << 10):
    return b"".join(zstded(data[at:at + size]) for at in range(0, len(data), size))


TOC_TYPES = {"0": "reg", "1": "hardlink", "2": "symlink", "3": "char", "5": "dir", "6": "fifo"}


class TocLayer:
    """A layer with a table of contents in it, eStargz or zstd:chunked. Each chunk of a file is a gzip member
    or zstd frame of its own; what lies between (tar headers and padding) goes into members of its own."""

    def __init__(self, listed, layer, zstd, chunk=256 << 10):
        self.zstd, self.chunk = zstd, chunk
        self.blob, self.tar, self.plain, self.table = bytearray(), bytearray(), bytearray(), []
        for where, name, kind, attributes in listed:
            if where == layer:
                self.add(name, kind, attributes)
        self.finish()

    def member(self):
        if self.plain:
            self.blob += zstded(bytes(self.plain)) if self.zstd else gzip.compress(bytes(self.plain), 6, mtime=0)
            self.tar += self.plain
        self.plain.clear()

    def add(self, name, kind, attributes):
        data = attributes.get("data", b"")
        one = Tar().add(name + ("/" if kind == "5" else ""), kind, **attributes)
        padded = len(data) + -len(data) % 512
        whole = bytes(one.out)
        self.plain += whole[:len(whole) - padded]
        entry = {"type": TOC_TYPES[kind], "name": name + ("/" if kind == "5" else ""), "size": len(data),
                 "mode": attributes.get("mode", 0o755 if kind == "5" else 0o777 if kind == "2" else 0o644),
                 "uid": attributes.get("uid", 0), "gid": attributes.get("gid", 0),
                 "modtime": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(attributes.get("mtime", T0)))}
        if "link" in attributes:
            entry["linkName"] = attributes["link"]
        if "dev" in attributes:
            entry["devMajor"], entry["devMinor"] = attributes["dev"]
        if "xattrs" in attributes:
            entry["xattrs"] = {k: b64encode(v).decode() for k, v in attributes["xattrs"].items()}
        first = len(self.table)
        self.table.append(entry)
        for at in range(0, len(data), self.chunk):
            self.member()
            part = data[at:at + self.chunk]
            chunk = entry if at == 0 else {"type": "chunk", "name": name}
            chunk["offset"] = len(self.blob)
            if len(data) > self.chunk:
                chunk["chunkOffset"] = at
                if self.zstd or at + self.chunk < len(data):
                    chunk["chunkSize"] = len(part)
            if not self.zstd or len(data) > self.chunk:
                chunk["chunkDigest"] = sha256(part)
            if at:
                self.table.append(chunk)
            self.plain += part
            if self.zstd:
                self.member()
        if data:
            entry["digest"] = sha256(data)
            if self.zstd:
                self.table[first]["endOffset"] = len(self.blob)
        self.plain += bytes(padded - len(data))

    def finish(self):
        text = json.dumps({"version": 1, "entries": self.table}).encode()
        if self.zstd:
            self.plain += bytes(1024)
            self.member()
            packed = zstded(text)
            skip = lambda data: b"\x50\x2a\x4d\x18" + struct.pack("<I", len(data)) + data
            prefix = "io.github.containers.zstd-chunked."
            self.annotations = {prefix + "manifest-checksum": sha256(packed),
                                prefix + "manifest-position": f"{len(self.blob) + 8}:{len(packed)}:{len(text)}:1"}
            self.blob += skip(packed) + skip(b"f" * 64)
            self.media = LAYER_ZSTD
        else:
            self.member()
            offset = len(self.blob)
            self.plain += Tar().file("stargz.index.json", text).bytes()
            self.member()
            self.blob += b"\x1f\x8b\x08\x04" + bytes(5) + b"\xff\x1a\x00SG\x16\x00" + b"%016x" % offset + b"STARGZ"
            self.blob += b"\x01\x00\x00\xff\xff" + bytes(8)
            self.annotations = {"containerd.io/snapshot/stargz/toc.digest": sha256(text)}
            self.media = LAYER_GZIP
        self.blob, self.tar = bytes(self.blob), bytes(self.tar)
        self.diff_id = sha256(self.tar)


def image(path, form, seed="1", mib="6"):
    listed = entries(seed, float(mib))
    layers = []
    for number in (0, 1):
        if form in ("estargz", "chunked"):
            layers.append(TocLayer(listed, number, form == "chunked"))
            continue
        tar = tar_of(listed, number).bytes()
        media = LAYER_GZIP if form == "gzip" else LAYER_ZSTD
        layers.append(Layer(tar, media, {"gzip": gzipped, "zstd": zstd_frames, "zstd-one": zstded}[form](tar)))
    if form in ("estargz", "chunked"):
        return toc_image(path, layers)
    layout = Layout(path)
    layout.tag(layout.image(layers))


def toc_image(path, layers):
    layout = Layout(path)
    plain = layout.image(layers)
    content = json.loads(open(f"{path}/blobs/sha256/{plain['digest'][7:]}").read())
    os.remove(f"{path}/blobs/sha256/{plain['digest'][7:]}")
    for descriptor, layer in zip(content["layers"], layers):
        descriptor["annotations"] = layer.annotations
    layout.tag(layout.manifest(content, MANIFEST))


def one_block(data):
    """A gzip member of one deflate block with the fixed code, in which a byte below 144 has 8 bits."""
    codes = bytes(int(f"{0x30 + value:08b}"[::-1], 2) if value < 144 else 0 for value in range(256))
    assert max(data) < 144
    bits = 3 | int.from_bytes(data.translate(codes), "little") << 3  # the last block, of type 1
    ends = struct.pack("<II", zlib.crc32(data), len(data) & 0xFFFFFFFF)
    return b"\x1f\x8b\x08" + bytes(6) + b"\xff" + bits.to_bytes(len(data) + 2, "little") + ends


def large(path, form, mib):
    size, rng = int(float(mib) * (1 << 20)), random.Random(mib)
    content = rng.randbytes(size)
    if form == "gzip":
        content = content.translate(bytes(value & 0x7F for value in range(256)))
    listed = [(0, "usr", "5", {}), (0, "usr/lib", "5", {}), (0, "usr/lib/before", "0", {"data": b"before\n" * 100}),
              (0, "usr/lib/large", "0", {"data": content}), (0, "usr/lib/after", "0", {"data": b"after\n" * 100})]
    if form == "estargz":
        return toc_image(path, [TocLayer(listed, 0, False, size)])
    tar = tar_of(listed, 0).bytes()
    layer = Layer(tar, LAYER_GZIP, one_block(tar)) if form == "gzip" else Layer(tar, LAYER_ZSTD, zstded(tar))
    layout = Layout(path)
    layout.tag(layout.image([layer]))


def system(path, mib):
    """What real layers are made of: programs, libraries, documentation, many small files."""
    limit, tar = float(mib) * (1 << 20), Tar()
    for share, root in ((0.35, "/usr/bin"), (0.7, "/usr/lib/python3"), (1, "/usr/share/doc")):
        for directory, folders, files in os.walk(root):
            folders.sort()
            if len(tar.out) > limit * share:
                break
            tar.dir(directory[1:] + "/")
            for name in sorted(files):
                file = f"{directory}/{name}"
                if len(tar.out) > limit * share or os.path.islink(file) or os.path.getsize(file) > 8 << 20:
                    continue
                tar.file(file[1:], open(file, "rb").read(), mtime=int(os.path.getmtime(file)))
    simple_image(path, [Layer(tar)])


# ---- judging

def layers_of(layout):
    index = json.load(open(layout + "/index.json"))
    content = json.load(open(f"{layout}/blobs/sha256/{index['manifests'][0]['digest'][7:]}"))
    return {layer["digest"]: layer["size"] for layer in content["layers"]}


def sent(requests, layout):
    got = spans(read(requests))
    print(sum(end - begin for digest in layers_of(layout) for begin, end in got.get(digest, [])))


def once(requests, layout, more="0"):
    got, good = spans(read(requests)), True
    for digest, size in layers_of(layout).items():
        parts = sorted(p for p in got.get(digest, []) if p[0] < p[1])
        at = twice = 0
        for begin, end in parts:
            twice += max(0, min(at, end) - begin)
            at = max(at, end)
        print(f"{digest}: {len(parts)} requests, {sum(e - b for b, e in parts)} of {size} bytes, {twice} twice")
        good &= twice <= len(parts) + int(more)
    return good


def readers(truth, places, count, seed):
    files = []
    for directory, _, names in os.walk(truth):
        for name in names:
            path = os.path.join(directory, name)
            if os.path.isfile(path) and not os.path.islink(path):
                files.append((os.path.relpath(path, truth), open(path, "rb").read()))
    if not files:
        raise SystemExit("nothing to read")
    children = []
    for number in range(count):
        child = os.fork()
        if child:
            children.append(child)
            continue
        try:
            rng = random.Random(f"{seed} {number}")
            todo = [(place, name, data, at) for place in places for name, data in files
                    for at in range(0, max(1, len(data)), 100_000)]
            rng.shuffle(todo)
            for place, name, data, at in todo:
                size = min(100_000, len(data) - at) if rng.random() < 0.7 else rng.randint(1, 100_000)
                fd = os.open(f"{place}/{name}", os.O_RDONLY)
                have = os.pread(fd, size, at)
                os.close(fd)
                if have != data[at:at + size]:
                    print(f"{place}/{name} at {at}: wrong bytes", flush=True)
                    os._exit(1)
            os._exit(0)
        except BaseException as error:
            print(f"reader {number}: {error!r}", flush=True)
            os._exit(1)
    statuses = [os.waitpid(child, 0)[1] for child in children]
    return not any(statuses)


def where(layout, number, path):
    """By decoding: the part of a gzip blob in which the data of `path` lies, to within a few KiB."""
    digest = list(layers_of(layout))[int(number)]
    blob = open(f"{layout}/blobs/sha256/{digest[7:]}", "rb").read()
    with tempfile.TemporaryFile() as f:
        f.write(gzip.decompress(blob))
        f.seek(0)
        member = tarfile.open(fileobj=f).getmember(path)
    decoder, out, begin = zlib.decompressobj(31), 0, None
    for at in range(0, len(blob), 1024):
        out += len(decoder.decompress(blob[at:at + 1024]))
        if begin is None and out > member.offset_data:
            begin = at
        if out >= member.offset_data + member.size:
            return print(begin, at + 1024)


# ---- lying

LAYER_INDEX = "application/vnd.imagefs.layer-index.v2+zstd"
LAYER_WINDOWS = "application/vnd.imagefs.layer-windows.v1"

def crc32c(data):
    table = []
    for i in range(256):
        for _ in range(8):
            i = i >> 1 ^ (0x82F63B78 if i & 1 else 0)
        table.append(i)
    crc = 0xFFFFFFFF
    for byte in data:
        crc = table[(crc ^ byte) & 0xFF] ^ crc >> 8
    return crc


def unpack_index(blob):
    """Header and entry, the tree, the span table, the digests of the pieces of its windows."""
    plain = subprocess.run(["zstd", "-q", "-d", "-c"], input=blob, stdout=subprocess.PIPE, check=True).stdout
    assert plain[:8] == b"imgfslix"
    header, tree, blobs, entry = *struct.unpack_from("<I", plain, 12), *struct.unpack_from("<QII", plain, 24)
    assert blobs == 1
    begin = header + entry
    table, = struct.unpack_from("<Q", plain, header + 48)
    return [bytearray(plain[:begin]), bytearray(plain[begin:begin + tree]),
            bytearray(plain[begin + tree:begin + tree + table]), bytearray(plain[begin + tree + table:])]


def set_checksum(access):
    struct.pack_into("<I", access, 128, 0)
    spans_end = 136 + 80 * struct.unpack_from("<Q", access, 104)[0] + 24 * struct.unpack_from("<Q", access, 112)[0]
    struct.pack_into("<I", access, 128, crc32c(access[:spans_end]))


def frame(plain):
    with tempfile.NamedTemporaryFile() as f:  # from a file, so that the frame says its size
        f.write(plain)
        f.flush()
        return subprocess.run(["zstd", "-q", "-c", f.name], stdout=subprocess.PIPE, check=True).stdout


def pack_index(parts):
    set_checksum(parts[2])
    return frame(b"".join(parts))


def pack_old_index(parts, windows):
    """As earlier versions published it: all in one blob."""
    _, tree, access, _ = parts
    access = access + windows
    struct.pack_into("<I", access, 8, 1)
    set_checksum(access)
    return frame(b"imgfsidx" + struct.pack("<Q", len(tree)) + tree + access)


def lie_in_pack(registry, repository, layer):
    """One wrong byte in the first frame; digest and header agree with it."""
    blob = registry.ask("GET", f"/v2/{repository}/blobs/{layer['digest']}")[2]
    assert blob[:8] == b"imgfspak"
    layers, pieces, frames = struct.unpack_from("<III", blob, 12)
    frames_at = 24 + 40 * layers + 8 * pieces
    header, packed = bytearray(blob[:frames_at + 40 * frames]), struct.unpack_from("<I", blob, frames_at + 4)[0]
    first = blob[len(header):len(header) + packed]
    plain = bytearray(subprocess.run(["zstd", "-q", "-d", "-c"], input=first, stdout=subprocess.PIPE, check=True).stdout)
    plain[1000] ^= 1
    false = frame(plain)
    struct.pack_into("<I", header, frames_at + 4, len(false))
    header[frames_at + 8:frames_at + 40] = hashlib.sha256(plain).digest()
    layer["annotations"]["dev.imagefs.header"] = sha256(header)
    return bytes(header) + false + blob[len(header) + packed:]


def lie(place, subject, how):
    host, _, repository = place.partition("/")
    registry = Registry(host)
    tag = f"sha256-{subject[7:]}.imagefs"
    status, headers, raw = registry.ask("GET", f"/v2/{repository}/manifests/{tag}", headers={"Accept": MANIFEST})
    if status != 200:
        raise SystemExit(f"no index: {status}")
    manifest = json.loads(raw)
    if how == "pack":
        layer, = [layer for layer in manifest["layers"] if layer["mediaType"] == "application/vnd.imagefs.hot-pack.v1"]
        blob = lie_in_pack(registry, repository, layer)
        layer["digest"], layer["size"] = sha256(blob), len(blob)
        with tempfile.NamedTemporaryFile() as f:
            f.write(blob)
            f.flush()
            registry.push_blob(repository, f.name, layer["digest"])
        return registry.push_manifest(repository, json.dumps(manifest).encode(), MANIFEST, tag)
    def blob_of(layer):
        return registry.ask("GET", f"/v2/{repository}/blobs/{layer['digest']}")[2]
    layers = [layer for layer in manifest["layers"] if layer["mediaType"] == LAYER_INDEX]
    windows = {layer["annotations"]["dev.imagefs.layer"]: blob_of(layer) for layer in manifest["layers"]
               if layer["mediaType"] == LAYER_WINDOWS}
    indexes = [unpack_index(blob_of(layer)) for layer in layers]
    head, index, access, pieces = indexes[0]
    check, = struct.unpack_from("<I", access, 128)
    set_checksum(access)
    if struct.unpack_from("<I", access, 128)[0] != check:
        raise SystemExit("this tool does not make the checksum as the project does")
    if how == "digest":
        for span in range(struct.unpack_from("<Q", access, 104)[0]):
            access[136 + 80 * span + 48] ^= 1
    elif how == "places":
        for span in range(struct.unpack_from("<Q", access, 104)[0]):
            at = 136 + 80 * span
            if access[at + 28] == 2:  # it begins within a gzip member
                access[at + 29] = (access[at + 29] + 3) % 8
    elif how == "mode":
        found = [at for at in range(1536, len(index) - 64, 32)
                 if struct.unpack_from("<H", index, at + 4)[0] == 0o100000 | MARKED_MODE
                 and struct.unpack_from("<Q", index, at + 8)[0] == MARKED_SIZE]
        if len(found) != 1:
            raise SystemExit(f"{len(found)} inodes look like the marked file's")
        struct.pack_into("<H", index, found[0] + 4, 0o104755)
    elif how == "other":
        indexes[0] = indexes[1]
    elif how == "windows":  # the digests of the pieces are those of other windows
        pieces[:] = bytes(len(pieces))
    elif how == "absent":  # nobody has the windows
        head[48 + 64] ^= 1
    elif how == "old":
        manifest["layers"] = [layer for layer in manifest["layers"] if layer["mediaType"] != LAYER_WINDOWS]
    else:
        raise SystemExit(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        for layer, parts in zip(layers, indexes):
            blob = pack_index(parts)
            if how == "old":
                blob = pack_old_index(parts, windows.get(layer["annotations"]["dev.imagefs.layer"], b""))
                layer["mediaType"] = LAYER_INDEX.replace("v2", "v1")
            layer["digest"], layer["size"] = sha256(blob), len(blob)
            open(folder + "/blob", "wb").write(blob)
            registry.push_blob(repository, folder + "/blob", layer["digest"])
    registry.push_manifest(repository, json.dumps(manifest).encode(), MANIFEST, tag)


def main(args):
    def option(name, default):
        if name not in args:
            return default
        at = args.index(name)
        value = args[at + 1]
        del args[at:at + 2]
        return value
    count, seed = int(option("--readers", "4")), option("--seed", "1")
    verb, rest = args[0], args[1:]
    if verb == "image":
        image(*rest)
    elif verb == "large":
        large(*rest)
    elif verb == "system":
        system(*rest)
    elif verb == "bytes":
        sent(*rest)
    elif verb == "once":
        sys.exit(0 if once(*rest) else 1)
    elif verb == "readers":
        sys.exit(0 if readers(rest[0], rest[1:], count, seed) else 1)
    elif verb == "file":
        where(*rest)
    elif verb == "manifest":
        host, _, repository = rest[0].partition("/")
        status, headers, raw = Registry(host).ask("GET", f"/v2/{repository}/manifests/{rest[1]}",
                                                  headers={"Accept": f"{MANIFEST}, {INDEX}, {DOCKER_MANIFEST}"})
        if status != 200:
            raise SystemExit(f"{rest}: {status}")
        print(raw.decode())
        print(sha256(raw), file=sys.stderr)
    elif verb == "lie":
        lie(*rest)
    else:
        raise SystemExit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
