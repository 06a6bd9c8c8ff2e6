#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A registry that means harm: hostile.py DIR. Listens on every address of the network namespace that it
runs in, writes its two ports to DIR/port and a line for each request, "HOST METHOD PATH AUTHORIZATION", to
DIR/log. What it does is in the repository's name, <behaviour>[/anything]; see BEHAVIOURS."""
import gzip
import hashlib
import http.server
import io
import json
import os
import select
import socketserver
import sys
import tarfile
import threading
import time

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
LAYERS = 80
BEHAVIOURS = """
ok            a small image
hog           80 layers, each redirected to another host that sends a byte each 2 seconds
hograte       the same with 2 KiB a second
hogsilent     the same with headers and then nothing
hogmute       the same without an answer
hogtar        the same with 2 KiB a second of a tar that has one large file
hoggzip       the same, compressed
hogown        80 layers, served by itself, a byte each 2 seconds
slowmanifest, slowconfig, slowblob, slowerror, slowtoken    a byte each 2 seconds
slowheaders   a header line each 2 seconds
slowinterim   an interim answer (103) each 2 seconds
chunked       a manifest whose chunks are a byte each second
lead          DIR/lead says where manifests, blobs or the token service (realm) are, or that the image gives the URL
              `urls` for a layer that the registry has not got
"""
FOLDER = sys.argv[1]


def digest(data):
    return "sha256:" + hashlib.sha256(data).hexdigest()


def small_layer():
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        info = tarfile.TarInfo("a")
        data = os.urandom(3000)
        info.size = len(data)
        tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


class Image:
    def __init__(self, layers, diff_ids):
        self.config = json.dumps({"architecture": "amd64", "os": "linux", "config": {},
                                  "rootfs": {"type": "layers", "diff_ids": diff_ids}}).encode()
        self.manifest = json.dumps({
            "schemaVersion": 2, "mediaType": MANIFEST, "layers": layers,
            "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": digest(self.config),
                       "size": len(self.config)}}).encode()


TAR = small_layer()
BLOB = gzip.compress(TAR, 1, mtime=0)
SMALL = Image([{"mediaType": LAYER, "digest": digest(BLOB), "size": len(BLOB)}], [digest(TAR)])
MANY = Image([{"mediaType": LAYER, "digest": "sha256:%064x" % k, "size": 1000000} for k in range(LAYERS)],
             ["sha256:%064x" % (k + 1000) for k in range(LAYERS)])
ENDLESS = tarfile.TarInfo("large")
ENDLESS.size = 1 << 20
ENDLESS = ENDLESS.tobuf(tarfile.USTAR_FORMAT) + os.urandom(1000000)
live = {}
lock = threading.Lock()
log = open(FOLDER + "/log", "a", buffering=1)


def count(behaviour, change):
    with lock:
        live[behaviour] = live.get(behaviour, 0) + change
        with open(FOLDER + "/live.new", "w") as file:
            json.dump(live, file)
        os.rename(FOLDER + "/live.new", FOLDER + "/live")


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def trickle(self, body, status=200, seconds=2.0, step=1):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Content-Type", MANIFEST)
        self.end_headers()
        for k in range(0, len(body), step):
            self.wfile.write(body[k:k + step])
            self.wfile.flush()
            time.sleep(seconds)

    def do_HEAD(self):
        self.answer(404)

    def do_GET(self):
        log.write(f"{self.headers.get('host')} GET {self.path} {self.headers.get('authorization', '-')}\n")
        try:
            self.serve(self.path.split("?")[0])
        except OSError:
            self.close_connection = True

    def serve(self, path):
        if path.startswith("/hold/"):
            behaviour = path.split("/")[2]
            count(behaviour, 1)
            try:
                return self.hold(behaviour)
            finally:
                count(behaviour, -1)
        if path.startswith("/slowtoken"):
            return self.trickle(b'{"token": "%s"}' % (b"t" * 500))
        if path.startswith("/secret"):
            return self.answer(200, b'{"token": "INTERNAL-SECRET"}')
        if path.startswith("/ok/manifest"):
            return self.answer(200, SMALL.manifest, Content_Type=MANIFEST)
        if path.startswith("/ok/blob"):
            return self.blob(BLOB)
        parts = path.split("/")
        if len(parts) < 5 or parts[1] != "v2":
            return self.answer(200, b"{}")
        if parts[-2] == "manifests" and not parts[-1].startswith("sha256-"):
            return self.manifest(parts[2])
        if parts[-2] == "blobs":
            return self.blob_of(parts[2], parts[-1])
        self.answer(404, b"{}")

    def pause(self, seconds):
        """Ends the request when the client has gone away."""
        if select.select([self.connection], [], [], seconds)[0]:
            raise OSError("gone")

    def hold(self, behaviour):
        while behaviour == "hogmute":
            self.pause(2)
        if behaviour in ("hograte", "hogtar", "hoggzip"):
            data = {"hograte": bytes(1000000), "hogtar": ENDLESS, "hoggzip": gzip.compress(ENDLESS, 1)}[behaviour]
            return self.trickle(data[:1000000], seconds=0.5, step=1024)
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        while True:
            if behaviour != "hogsilent":
                self.wfile.write(b"x")
                self.wfile.flush()
            self.pause(2)

    def challenge(self, realm):
        self.answer(401, b"{}", WWW_Authenticate=f'Bearer realm="{realm}",service="x"')

    def lead(self, what):
        with open(FOLDER + "/lead") as file:
            return json.load(file).get(what)

    def manifest(self, behaviour):
        here = f"http://{self.headers.get('host')}"
        if behaviour.startswith("hog"):
            return self.answer(200, MANY.manifest, Content_Type=MANIFEST)
        if behaviour == "slowmanifest":
            return self.trickle(SMALL.manifest)
        if behaviour == "slowerror":
            return self.trickle(b'{"errors": [{"message": "%s"}]}' % (b"e" * 500), status=404)
        if behaviour == "slowheaders":
            self.wfile.write(b"HTTP/1.1 200 OK\r\n")
            while True:
                self.wfile.write(b"X-A: b\r\n")
                time.sleep(2)
        if behaviour == "slowinterim":
            while True:
                self.wfile.write(b"HTTP/1.1 103 Early Hints\r\n\r\n")
                time.sleep(2)
        if behaviour == "chunked":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            while True:
                self.wfile.write(b"1\r\n \r\n")
                time.sleep(1)
        authorised = self.headers.get("authorization")
        if behaviour == "slowtoken" and not authorised:
            return self.challenge(here + "/slowtoken")
        if behaviour == "lead":
            if self.lead("realm") and not authorised:
                return self.challenge(self.lead("realm"))
            if self.lead("manifests"):
                return self.answer(307, Location=self.lead("manifests"))
            if self.lead("urls"):
                manifest = json.loads(SMALL.manifest)
                manifest["layers"][0]["urls"] = [self.lead("urls")]
                return self.answer(200, json.dumps(manifest).encode(), Content_Type=MANIFEST)
        self.answer(200, SMALL.manifest, Content_Type=MANIFEST)

    def blob_of(self, behaviour, wanted):
        if behaviour.startswith("hog"):
            if wanted == digest(MANY.config):
                return self.answer(200, MANY.config)
            if behaviour == "hogown":
                return self.serve("/hold/hogown")
            k = int(wanted[-4:], 16)
            port = self.server.server_address[1]
            return self.answer(307, Location=f"http://127.0.1.{k + 1}:{port}/hold/{behaviour}/{k}")
        if wanted == digest(SMALL.config):
            if behaviour == "slowconfig":
                return self.trickle(SMALL.config)
            return self.answer(200, SMALL.config)
        if behaviour == "slowblob":
            return self.trickle(BLOB)
        if behaviour == "lead" and self.lead("urls"):
            return self.answer(404, b"{}")
        if behaviour == "lead" and self.lead("blobs"):
            return self.answer(307, Location=self.lead("blobs"))
        self.blob(BLOB)

    def blob(self, data):
        asked = self.headers.get("range", "")
        if not asked.startswith("bytes="):
            return self.answer(200, data)
        begin, _, end = asked[6:].partition("-")
        begin, end = int(begin), min(int(end or len(data)), len(data) - 1)
        self.answer(206, data[begin:end + 1], Content_Range=f"bytes {begin}-{end}/{len(data)}")


class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 500


server, other = Server(("0.0.0.0", 0), Handler), Server(("0.0.0.0", 0), Handler)
threading.Thread(target=other.serve_forever, daemon=True).start()
with open(FOLDER + "/port.new", "w") as port_file:
    port_file.write(f"{server.server_address[1]} {other.server_address[1]}\n")
os.rename(FOLDER + "/port.new", FOLDER + "/port")
server.serve_forever()
