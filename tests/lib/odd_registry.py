#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A registry that does what real ones do and the specification does not say: odd_registry.py DIR LAYOUT.

Serves the one image of an OCI layout as HOST:PORT/GROUP/BEHAVIOUR:1 and writes "PORT OTHER" to DIR/port: OTHER is
another host (localhost), storage and a second registry. Each request is a line of JSON in DIR/log: server, method,
path, and the headers authorization, referer, range, accept. Where a token is asked for, GROUP "any" is given to
everybody and GROUP "user" to alice, password PASSWORD. `odd_registry.py list` prints the behaviours."""
import base64
import glob
import http.server
import json
import os
import sys
import threading
import urllib.parse

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import oci

PASSWORD = "p4ssW0rd-of-alice"
BEHAVIOURS = """
plain           as it should be
link            blobs are redirected to storage
once400 once401 once403 once404 once410 once416 once500    each link is good for one request, then that status
oncehtml oncecut oncereset    the same, then a page, half an answer, none
nodes           every other link is to a host that is not there
names           every other link is to a name that is not known
expire404       each link is good for three requests
referer         storage wants the Referer
hops            three redirects, the last two on the storage host
token301 token302 token303 token307 token308    the token service has moved on its host
ping401 ping403 ping404    refused without a challenge, which is at /v2/ only
vanity          the whole API is redirected to another registry, which wants a token
vanitylink      the same, and that one redirects its blobs to storage
foreign         layers are at the urls of their descriptors only: the second of them
foreignhop      the same, behind a redirect
foreignsize     the same, where the first url has something else of another size
nocr            206 without Content-Range
starcr          Content-Range with * for the size
othercr         Content-Range with another size
shiftcr         Content-Range with other bytes than were asked for
multipart       206 multipart/byteranges
norange         200 with everything
refuserange     416 to every range
shortrange      ranges end after 100,000 bytes
oldaccept       knows an Accept line as a whole only, else schema 1
jsontype charset uppertype notype    Content-Type of the manifest
chunked         no Content-Length
busy            503 or 429 to every other request
"""
ALL = [line.split("    ")[0].split() if "    " in line else [line.split()[0]] for line in BEHAVIOURS.strip().split("\n")]
NAMES = [name for names in ALL for name in names]
MANIFEST_V1 = "application/vnd.docker.distribution.manifest.v1+prettyjws"


class State:
    """What the servers share."""

    def __init__(self, folder, layout):
        self.log = open(folder + "/log", "a", buffering=1)
        self.lock = threading.Lock()
        self.blobs = {"sha256:" + os.path.basename(file): open(file, "rb").read()
                      for file in glob.glob(layout + "/blobs/sha256/*")}
        entry = json.load(open(layout + "/index.json"))["manifests"][0]
        self.type = entry["mediaType"]
        self.manifest = self.blobs[entry["digest"]]
        self.layers = [layer["digest"] for layer in json.loads(self.manifest)["layers"]]
        self.uses, self.links, self.seen = {}, {}, {}

    def manifest_of(self, behaviour, port):
        if not behaviour.startswith("foreign"):
            return self.manifest
        manifest = json.loads(self.manifest)
        for layer in manifest["layers"]:
            layer["mediaType"] = layer["mediaType"].replace("layer.v1", "layer.nondistributable.v1")
            end = "hop" if behaviour == "foreignhop" else "blob"
            first = f"http://localhost:{port}/blob/wrong" if behaviour == "foreignsize" else "http://127.0.0.1:1/none"
            layer["urls"] = ["ftp://127.0.0.1/x", first, f"http://localhost:{port}/{end}/{layer['digest']}"]
        return json.dumps(manifest).encode()

    def count(self, table, key):
        with self.lock:
            table[key] = table.get(key, 0) + 1
            return table[key]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 60
    form = ""

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET()

    def do_POST(self):
        self.form = self.rfile.read(int(self.headers.get("content-length") or 0)).decode()
        self.do_GET()

    def do_GET(self):
        record = {"server": self.server.name, "method": self.command, "path": self.path,
                  "accept": self.headers.get_all("accept") or []}
        record.update({name: self.headers.get(name) for name in ("authorization", "referer", "range")})
        with state.lock:
            state.log.write(json.dumps(record) + "\n")
        url = urllib.parse.urlparse(self.path)
        try:
            self.serve(url.path, url.query)
        except OSError:
            self.close_connection = True

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        if headers.pop("chunked", False):
            headers["Transfer_Encoding"] = "chunked"
            body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in
                            (body[k:k + 100000] for k in range(0, len(body), 100000))) + b"0\r\n\r\n"
        else:
            self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def error(self, status, code, **headers):
        self.answer(status, json.dumps({"errors": [{"code": code}]}).encode(), Content_Type="application/json", **headers)

    def lead(self, url, status=307):
        self.answer(status, Location=url)

    def serve(self, path, query):
        parts = path.strip("/").split("/")
        authorization = self.headers.get("authorization") or ""
        if parts[0] == "token":
            return self.token(parts, query, authorization)
        if parts[0] in ("store", "blob", "hop"):
            return self.storage(parts, authorization)
        if parts[0] != "v2":
            return self.error(404, "NOT_FOUND")
        if len(parts) < 5:
            realm = f"http://127.0.0.1:{ports[0]}/token"
            return self.error(401, "UNAUTHORIZED", WWW_Authenticate=f'Bearer realm="{realm}",service="odd"')
        group, behaviour, kind, which = parts[1], parts[2], parts[-2], parts[-1]
        if self.server.name == "registry":
            if behaviour.startswith("vanity"):
                return self.lead(f"http://localhost:{ports[1]}{self.path}")
            if behaviour.startswith(("ping", "token")) and authorization != f"Bearer {group}":
                if behaviour.startswith("ping"):
                    return self.error(int(behaviour[4:]), "DENIED")
                realm = f"http://127.0.0.1:{ports[0]}/token/{behaviour[5:]}"
                return self.error(401, "UNAUTHORIZED", WWW_Authenticate=f'Bearer realm="{realm}"')
        elif authorization != "Bearer any":
            realm = f"http://localhost:{ports[1]}/token"
            return self.error(401, "UNAUTHORIZED", WWW_Authenticate=f'Bearer realm="{realm}",service="other"')
        if behaviour == "busy" and state.count(state.seen, self.path) % 2 == 1:
            return self.answer(503 if kind == "blobs" else 429, Retry_After="0")
        if kind == "manifests":
            return self.manifest(behaviour, which)
        if kind == "blobs" and which in state.blobs:
            return self.registry_blob(behaviour, which)
        self.error(404, "UNKNOWN")

    def token(self, parts, query, authorization):
        if len(parts) > 1:
            return self.lead(f"http://{self.headers.get('host')}/token?{query}", int(parts[1]))
        # With a form, as containerd asks.
        query += "&" + self.form
        alice = "Basic " + base64.b64encode(f"alice:{PASSWORD}".encode()).decode()
        token = "user" if (authorization == alice or f"password={PASSWORD}" in query) and "repository:user/" in urllib.parse.unquote_plus(query) else "any"
        self.answer(200, json.dumps({"token": token, "access_token": token}).encode(), Content_Type="application/json")

    def manifest(self, behaviour, which):
        manifest, kind = state.manifest_of(behaviour, ports[1]), state.type
        if which not in ("1", oci.sha256(manifest)):
            return self.error(404, "MANIFEST_UNKNOWN")
        if behaviour == "oldaccept" and kind not in (self.headers.get_all("accept") or []):
            old = {"schemaVersion": 1, "name": "x", "tag": "1", "architecture": "amd64", "fsLayers": [], "history": []}
            return self.answer(200, json.dumps(old).encode(), Content_Type=MANIFEST_V1)
        kind = {"jsontype": "application/json;charset=ISO-8859-1", "charset": kind + "; charset=utf-8",
                "uppertype": kind.upper()}.get(behaviour, kind)
        headers = {} if behaviour == "notype" else {"Content_Type": kind}
        self.answer(200, manifest, chunked=behaviour == "chunked", Docker_Content_Digest=oci.sha256(manifest), **headers)

    def registry_blob(self, behaviour, digest):
        if behaviour.startswith("foreign") and digest in state.layers:
            return self.error(404, "BLOB_UNKNOWN")
        leads = behaviour.startswith(("once", "expire")) or behaviour in ("link", "nodes", "names", "referer", "hops", "vanitylink")
        if not leads:
            return self.blob(state.blobs[digest], behaviour)
        number = state.count(state.links, behaviour)
        if behaviour == "nodes" and number % 2 == 0:
            return self.lead("http://localhost:1/gone")
        if behaviour == "names" and number % 2 == 0:
            return self.lead("http://no-such-host.invalid/gone")
        self.lead(f"http://localhost:{ports[1]}/store/{behaviour}/{number}/0/{digest}?sig={number}")

    def storage(self, parts, authorization):
        if authorization:
            return self.answer(400, b"<Error>only one kind of authorisation</Error>")
        if parts[0] == "hop":
            return self.lead(f"/blob/{parts[1]}", 302)
        if parts[0] == "blob":
            return self.blob(state.blobs.get(parts[1], b"something else"), "link")
        behaviour, hop, digest = parts[1], int(parts[3]), parts[4]
        if behaviour == "hops" and hop < 2:
            return self.lead("/" + "/".join(parts[:3] + [str(hop + 1), digest]), 302)
        if behaviour == "referer" and not (self.headers.get("referer") or "").startswith(f"http://127.0.0.1:{ports[0]}/v2/"):
            return self.answer(401, b"<Error>hot link</Error>", WWW_Authenticate='Basic realm="s"')
        uses = state.count(state.uses, self.path)
        if behaviour.startswith("once") and uses > 1 or behaviour.startswith("expire") and uses > 3:
            after = behaviour.replace("once", "").replace("expire", "")
            if after == "html":
                return self.answer(200, b"<html>this link has expired", Content_Type="text/html")
            if after == "reset":
                raise OSError("gone")
            if after == "cut":
                self.wfile.write(b"HTTP/1.1 206 Partial Content\r\nContent-Le")
                raise OSError("gone")
            return self.answer(int(after), b"<Error>expired</Error>")
        self.blob(state.blobs[digest], behaviour)

    def blob(self, data, behaviour):
        asked = self.headers.get("range") or ""
        if not asked.startswith("bytes=") or behaviour == "norange":
            return self.answer(200, data, chunked=behaviour == "chunked")
        begin, _, end = asked[6:].partition("-")
        begin, end = int(begin), min(int(end or len(data)) + 1, len(data))
        if behaviour == "refuserange":
            return self.answer(416, Content_Range=f"bytes */{len(data)}")
        if behaviour == "shortrange":
            end = min(end, begin + 100000)
        part, shown = data[begin:end], f"bytes {begin}-{end - 1}/{len(data)}"
        if behaviour == "multipart":
            part = f"--x\r\nContent-Range: {shown}\r\n\r\n".encode() + part + b"\r\n--x--\r\n"
            return self.answer(206, part, Content_Type="multipart/byteranges; boundary=x")
        shown = {"nocr": None, "starcr": f"bytes {begin}-{end - 1}/*", "othercr": f"bytes {begin}-{end - 1}/{len(data) + 7}",
                 "shiftcr": f"bytes {begin + 1}-{end}/{len(data) + 1}"}.get(behaviour, shown)
        self.answer(206, part, **({"Content_Range": shown} if shown else {}))


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 100

    def handle_error(self, *_):
        pass


def main():
    global state, ports
    if sys.argv[1] == "list":
        return print("\n".join(NAMES))
    folder = sys.argv[1]
    state = State(folder, sys.argv[2])
    registry, other = Server(("127.0.0.1", 0), Handler), Server(("127.0.0.1", 0), Handler)
    registry.name, other.name = "registry", "other"
    ports = [registry.server_address[1], other.server_address[1]]
    threading.Thread(target=other.serve_forever, daemon=True).start()
    with open(folder + "/port.new", "w") as file:
        file.write("%d %d\n" % tuple(ports))
    os.rename(folder + "/port.new", folder + "/port")
    registry.serve_forever()


if __name__ == "__main__":
    main()
