#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A registry that asks for authorisation in many ways, and a service of the same machine that is none of its business.

  auth_registry.py DIR [--tls CERT KEY]

serves one small image as HOST:PORT/KIND:1 (all its KINDs are below), writes "PORT OTHER" to DIR/port and each request
to DIR/log as a line of JSON: server ("registry" or "other"), method, path, body, authorization. The other service
answers everything with a JSON text that looks like a token. Credentials: alice, PASSWORD; the identity token IDENTITY.
"""
import base64
import http.server
import json
import os
import ssl
import sys
import threading
import time
import urllib.parse

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import oci

PASSWORD = "p4ssW0rd-of-alice"
IDENTITY = "1dentity-t0ken-of-alice"
SHORT = "Sh0rt!pw"  # that a std::string keeps in itself
BEARER = "b3arer.t0ken.of.the.registry"
INTERNAL = "INTERNAL-SECRET-OF-THIS-MACHINE"

tar = oci.Tar().dir("etc").file("etc/passwd", b"root:x:0:0::/:/bin/sh\n" * 10)
layer = oci.gzipped(tar.bytes(), 6)
config = json.dumps({"architecture": "amd64", "os": "linux", "config": {},
                     "rootfs": {"type": "layers", "diff_ids": [oci.sha256(tar.bytes())]}}).encode()
manifest = json.dumps({
    "schemaVersion": 2, "mediaType": oci.MANIFEST,
    "config": {"mediaType": oci.CONFIG, "digest": oci.sha256(config), "size": len(config)},
    "layers": [{"mediaType": oci.LAYER_GZIP, "digest": oci.sha256(layer), "size": len(layer)}]}).encode()
blobs = {oci.sha256(b): b for b in (config, layer)}


def realm(kind, port, other):
    """What the challenge of a kind names."""
    return {
        "own": f"{scheme}://127.0.0.1:{port}/token",
        "identity": f"{scheme}://127.0.0.1:{port}/token",
        "refusing": f"{scheme}://127.0.0.1:{port}/refuse",
        "moved": f"{scheme}://127.0.0.1:{port}/moved",
        "text": f"{scheme}://127.0.0.1:{port}/text",
        "port": f"http://127.0.0.1:{other}/latest/api/token",
        "name": f"http://localhost:{port}/token",
        "metadata": "http://169.254.169.254/latest/api/token",
        "user": f"http://a:b@127.0.0.1:{other}/token",
        "file": "file:///etc/shadow",
        "relative": "/token",
        "quoted": f"http://127.0.0.1:{other}/x\\\"y",
    }.get(kind)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, status, body=b"{}", **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_HEAD(self):
        self.do_GET()

    def do_POST(self):
        self.do_GET()

    def do_GET(self):
        body = self.rfile.read(int(self.headers.get("content-length") or 0)).decode()
        with lock:
            log.write(json.dumps({"server": self.server.name, "method": self.command, "path": self.path, "body": body,
                                  "authorization": self.headers.get("authorization")}) + "\n")
        if self.server.name == "other":
            return self.answer(200, json.dumps({"token": INTERNAL, "access_token": INTERNAL}).encode())
        path = self.path.split("?")[0]
        if path == "/token":
            return self.token(body)
        if path == "/refuse":
            return self.answer(403, json.dumps({"token": INTERNAL, "message": INTERNAL}).encode())
        if path == "/moved":
            return self.answer(307, Location=f"http://127.0.0.1:{ports[1]}/latest/api/token")
        if path == "/text":
            return self.answer(200, INTERNAL.encode())
        self.registry(path.split("/"))

    def token(self, body):
        given = self.headers.get("authorization") or ""
        form = urllib.parse.parse_qs(body)
        right = [base64.b64encode(f"alice:{p}".encode()).decode() for p in (PASSWORD, SHORT)]
        if given in ["Basic " + r for r in right] or form.get("refresh_token") == [IDENTITY]:
            return self.answer(200, json.dumps({"access_token": BEARER, "token": BEARER, "expires_in": 60}).encode())
        self.answer(401)

    def registry(self, parts):
        if len(parts) < 5 or parts[1] != "v2":
            return self.answer(200)
        kind, what, which = parts[2], parts[-2], parts[-1]
        given = self.headers.get("authorization") or ""
        if kind in ("basic", "led", "held"):
            good = [base64.b64encode(f"alice:{p}".encode()).decode() for p in (PASSWORD, SHORT)]
            if given not in ["Basic " + g for g in good]:
                return self.answer(401, WWW_Authenticate='Basic realm="x"')
        elif given != "Bearer " + BEARER and kind != "open":
            challenge = f'Bearer realm="{realm(kind, *ports)}",service="x"'
            return self.answer(401, WWW_Authenticate=challenge)
        if what == "blobs" and kind == "led":
            return self.answer(307, Location=f"http://127.0.0.1:{ports[1]}/{which}")
        if what == "blobs" and kind == "held":
            time.sleep(600)
        if what == "manifests" and which in ("1", oci.sha256(manifest)):
            return self.answer(200, manifest, Content_Type=oci.MANIFEST)
        if what == "blobs" and which in blobs:
            return self.answer(200, blobs[which])
        self.answer(404)


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True


def main():
    global log, ports, lock, scheme
    folder = sys.argv[1]
    log = open(folder + "/log", "a", buffering=1)
    lock = threading.Lock()
    servers = [Server(("127.0.0.1", 0), Handler) for _ in range(2)]
    ports = [s.server_address[1] for s in servers]
    scheme = "https" if "--tls" in sys.argv else "http"
    if scheme == "https":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*sys.argv[3:5])
        servers[0].socket = context.wrap_socket(servers[0].socket, server_side=True)
    servers[0].name, servers[1].name = "registry", "other"
    threading.Thread(target=servers[1].serve_forever, daemon=True).start()
    with open(folder + "/port.new", "w") as file:
        file.write("%d %d" % tuple(ports))
    os.rename(folder + "/port.new", folder + "/port")
    servers[0].serve_forever()


if __name__ == "__main__":
    main()
