# SPDX-License-Identifier: Apache-2.0
"""A registry of one image whose layers' indexes are an attack on memory, disk or patience.

hostile_index.py KIND PORT_FILE LAYERS

KIND says what lies beside the image, or in its layers; see KINDS. Everything that a manifest says of a layer (its
size, its DiffID) is a claim that costs nothing. Blobs of layers do not exist, so no mount ever succeeds.
"""
import gzip, hashlib, http.server, io, json, os, re, socketserver, struct, subprocess, sys, tarfile, time

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.imagefs.index.v1+json"
BUNDLE = "application/vnd.imagefs.layer-index.v1+zstd"
PROFILE = "application/vnd.imagefs.profile.v1+json"
EMPTY = b"{}"
MIB = 1 << 20


def sha(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def zstd(data, *options):
    """A frame that does not say how much it holds."""
    return subprocess.run(["zstd", "-q", "-c", *options], input=data, stdout=subprocess.PIPE, check=True).stdout


def zstd_zeros(size, head=b"imgfsidx"):
    """A frame that says how much it holds, made without having it in memory."""
    with open(sys.argv[2] + ".zeros", "wb") as f:
        f.write(head)
        f.truncate(size)
    out = subprocess.run(["zstd", "-q", "-c", f.name], stdout=subprocess.PIPE, check=True).stdout
    os.unlink(f.name)
    return out


def lying(frame, size):
    """The frame with another size in its header (RFC 8878, 3.1.1.1.4)."""
    flag, single = frame[4] >> 6, frame[4] >> 5 & 1
    at = 5 + (0 if single else 1) + (0, 1, 2, 4)[frame[4] & 3]
    field = {1: "<H", 2: "<I", 3: "<Q"}[flag]
    return frame[:at] + struct.pack(field, size - (256 if flag == 1 else 0)) + frame[at + struct.calcsize(field):]


def gzip_zeros(size):
    return subprocess.run(f"head -c {size} /dev/zero | gzip -9", shell=True, stdout=subprocess.PIPE, check=True).stdout


def footer(offset):
    extra = b"SG\x16\x00" + b"%016x" % offset + b"STARGZ"
    return b"\x1f\x8b\x08\x04\0\0\0\0\0\xff" + struct.pack("<H", len(extra)) + extra + b"\x01\0\0\xff\xff" + bytes(8)


def wrapped(json_text):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        info = tarfile.TarInfo("stargz.index.json")
        info.size = len(json_text)
        tar.addfile(info, io.BytesIO(json_text))
    return gzip.compress(out.getvalue(), 1)


def toc(entries):
    return json.dumps({"version": 1, "entries": entries}).encode()


class Image:
    """What the registry serves: blobs by digest, and for each layer its size, annotations and index."""

    def __init__(self, layers):
        self.blobs, self.parts, self.extra = {sha(EMPTY): EMPTY}, {}, []
        self.layer_bytes, self.annotations = 10_000_000, {}
        self.bundle, self.bundle_bytes = None, None
        self.slow = 0
        self.count = layers

    def table_at_the_end(self, blob_end, annotations):
        """Every layer ends with these bytes."""
        self.annotations = annotations
        self.end = blob_end

    def finish(self):
        layers = [{"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": "sha256:%064x" % (k + 1),
                   "size": self.layer_bytes, "annotations": self.annotations} for k in range(self.count)]
        config = json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {
            "type": "layers", "diff_ids": ["sha256:%064x" % (k + 10_001) for k in range(self.count)]}}).encode()
        self.manifest = json.dumps({"schemaVersion": 2, "mediaType": MANIFEST, "layers": layers, "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json", "digest": sha(config), "size": len(config)}}).encode()
        self.blobs[sha(config)] = config
        if self.bundle is None:
            self.artifact = None
            return
        self.blobs[sha(self.bundle)] = self.bundle
        self.artifact = json.dumps({
            "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": INDEX,
            "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": sha(EMPTY), "size": 2},
            "subject": {"mediaType": MANIFEST, "digest": sha(self.manifest), "size": len(self.manifest)},
            "layers": self.extra + [{"mediaType": BUNDLE, "digest": sha(self.bundle),
                                     "size": self.bundle_bytes or len(self.bundle),
                                     "annotations": {"dev.imagefs.layer": l["digest"]}} for l in layers]}).encode()


def beside(bundle, layer_bytes=10_000_000, says=None):
    def make(image):
        image.bundle, image.bundle_bytes, image.layer_bytes = bundle(), says, layer_bytes
    return make


def estargz(blob):
    """`blob`: the table as it lies in a blob, and what its annotation says of it."""
    def make(image):
        table, digest = blob()
        image.layer_bytes = 1000 * MIB
        image.end = table + footer(image.layer_bytes - len(table) - 51)
        image.annotations = {"containerd.io/snapshot/stargz/toc.digest": digest}
    return make


def chunked(table, says):
    def make(image):
        data = table()
        image.layer_bytes = 1000 * MIB
        image.end = data + bytes(64)
        image.annotations = {"io.github.containers.zstd-chunked.manifest-checksum": sha(data),
                             "io.github.containers.zstd-chunked.manifest-position":
                             f"{image.layer_bytes - len(image.end)}:{len(data)}:{says}:1"}
    return make


def slow(image):
    beside(lambda: os.urandom(900_000))(image)
    image.slow = 5


def profiles(image):
    beside(lambda: zstd(b"imgfsidx" + bytes(100)))(image)
    blob = b"[" + b" " * (4 * MIB - 2) + b"]"
    image.blobs[sha(blob)] = blob
    image.extra = [{"mediaType": PROFILE, "digest": sha(blob), "size": len(blob)}] * 500


def deep_toc():
    text = toc([{"type": "dir", "name": "%d/" % k + "d/" * 2000} for k in range(2000)])
    return wrapped(text), sha(text)


KINDS = {
    # 200 MiB for 10 MB of layer; the same where the layer says that it has 10 GB.
    "big": beside(lambda: os.urandom(MIB) * 200),
    "big-layer": beside(lambda: os.urandom(MIB) * 200, 10_000_000_000),
    # As large as may be, and no index.
    "largest": beside(lambda: os.urandom(MIB) * 20, 10_000_000_000),
    "bomb": beside(lambda: zstd_zeros(536_000_000)),
    "bomb-largest": beside(lambda: zstd_zeros(20 * MIB)),
    # What the frame says of itself is a lie; so is what the manifest says of the blob.
    "bomb-that-lies": beside(lambda: lying(zstd_zeros(536_000_000), 1_000_000)),
    "longer-than-said": beside(lambda: os.urandom(MIB) * 200, says=900_000),
    "profiles": profiles,
    "slow": slow,
    "toc-bomb": chunked(lambda: zstd_zeros(256 * MIB), 256 * MIB),
    "toc-window": chunked(lambda: zstd(b"{}", "--long=27"), 2),  # 128 MiB, says the frame
    "toc-that-lies": chunked(lambda: zstd_zeros(256 * MIB), 1000),
    "toc-gzip-bomb": estargz(lambda: (gzip_zeros(256 * MIB), sha(b""))),
    "toc-gzip-that-lies": estargz(lambda: (gzip_zeros(256 * MIB)[:-4] + struct.pack("<I", 1000), sha(b""))),
    "toc-of-directories": estargz(deep_toc),
}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def send(self, status, body, **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if status in (200, 206) and IMAGE.slow and len(body) > 100_000:
            for at in range(0, len(body), 1000):
                self.wfile.write(body[at:at + 1000])
                time.sleep(IMAGE.slow)
        self.wfile.write(body)

    def do_GET(self):
        try:
            self.answer()
        except OSError:
            pass

    def answer(self):
        path = self.path
        if path.endswith("/manifests/1") or sha(IMAGE.manifest) in path and "/manifests/" in path:
            return self.send(200, IMAGE.manifest, Content_Type=MANIFEST)
        if path.endswith(".imagefs") and IMAGE.artifact is not None:
            return self.send(200, IMAGE.artifact, Content_Type=MANIFEST)
        digest = path.rsplit("/", 1)[-1]
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if digest in IMAGE.blobs:
            blob = IMAGE.blobs[digest]
            if IMAGE.bundle_bytes or not wanted:  # of a liar more comes than was asked for
                return self.send(200, blob)
            begin, end = int(wanted[1]), min(int(wanted[2]) + 1, len(blob))
            return self.send(206, blob[begin:end], Content_Range=f"bytes {begin}-{end - 1}/{len(blob)}")
        if "/blobs/" in path and hasattr(IMAGE, "end") and wanted:  # the last bytes of a layer
            begin, end = int(wanted[1]), int(wanted[2]) + 1
            before = IMAGE.layer_bytes - len(IMAGE.end)
            if begin >= before - MIB:
                data = bytes(max(0, min(end, before) - begin)) + IMAGE.end[max(0, begin - before):max(0, end - before)]
                return self.send(206, data, Content_Range=f"bytes {begin}-{end - 1}/{IMAGE.layer_bytes}")
        self.send(404, b"{}")


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 500

    def handle_error(self, request, client_address):
        pass  # connections are cut, which is what this is for


if __name__ == "__main__":
    IMAGE = Image(int(sys.argv[3]))
    KINDS[sys.argv[1]](IMAGE)
    IMAGE.finish()
    server = Server(("127.0.0.1", 0), Handler)
    with open(sys.argv[2] + ".new", "w") as f:
        f.write("127.0.0.1:%d" % server.server_address[1])
    os.rename(sys.argv[2] + ".new", sys.argv[2])
    server.serve_forever()
