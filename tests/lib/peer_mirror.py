#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A node's peer mirror, as the documents of Spegel and Dragonfly's client describe theirs: it gives what its node has,
in ranges, to clients that name the registry, and 404 for all else.

  peer_mirror.py REGISTRY/REPOSITORY LAYOUT DIR    has the image of an OCI layout, by each of its tags (`latest` as
                                1 too); listens on a free port of 127.0.0.1, which it writes to DIR/port
  DIR/requests   one JSON object a line, when the answer ended: method, path, range, status, sent (bytes of body)
  DIR/lacks      digests that are not here, separated by blanks; read at every request
  DIR/moods      JSON list, read at every request; the first that fits and is not used up:
                 {"path": regex, "times": N,
                  "delay": S     seconds before the answer
                  "rate": N      bytes a second
                  "drop": N      the connection ends after N bytes of the body}

Without `ns`, or with another registry in it, the answer is 404. Nothing can be uploaded, and there are no referrers.
"""
import http.server
import json
import os
import re
import sys
import threading
import time
import urllib.parse

image, layout, folder = sys.argv[1:4]
registry, _, repository = image.partition("/")
tags = {}
for entry in json.load(open(layout + "/index.json"))["manifests"]:
    name = entry.get("annotations", {}).get("org.opencontainers.image.ref.name", "latest")
    tags[name] = entry["digest"]
    if name == "latest":
        tags["1"] = entry["digest"]
lock = threading.Lock()
used = {}


def read(name):
    try:
        with open(f"{folder}/{name}") as f:
            return f.read()
    except FileNotFoundError:
        return ""


def mood_of(path):
    with lock:
        for number, mood in enumerate(json.loads(read("moods") or "[]")):
            key = json.dumps([number, mood], sort_keys=True)
            if re.search(mood.get("path", ""), path) and used.get(key, 0) < mood.get("times", 1 << 60):
                used[key] = used.get(key, 0) + 1
                return mood
    return {}


def part_of(wanted, size):
    """(first, last) of one range, None for the whole; ValueError if it cannot be given."""
    if wanted is None:
        return None
    match = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted)
    if not match or match.groups() == ("", ""):
        raise ValueError
    first, last = match.groups()
    if not first:
        return max(0, size - int(last)), size - 1
    if int(first) >= size or (last and int(last) < int(first)):
        raise ValueError
    return int(first), min(int(last or size), size - 1)


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def handle_one_request(self):
        # Somebody tries TLS first: refused at once, as Go's servers do.
        try:
            if self.rfile.peek(1)[:1] == b"\x16":
                self.wfile.write(b"HTTP/1.0 400 Bad Request\r\n\r\n")
                self.close_connection = True
                return
            super().handle_one_request()
        except OSError:
            self.close_connection = True

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        url = urllib.parse.urlparse(self.path)
        self.sent, status = 0, 404
        try:
            if url.path.rstrip("/") == "/v2":
                status = self.answer(200, {}, b"")
            else:
                status = self.content(url.path, urllib.parse.parse_qs(url.query).get("ns"))
        except OSError:
            self.close_connection = True
        with lock, open(folder + "/requests", "a") as f:
            f.write(json.dumps({"method": self.command, "path": self.path, "range": self.headers.get("Range"),
                                "status": status, "sent": self.sent}) + "\n")

    def content(self, path, ns):
        found = re.fullmatch(r"/v2/(.+)/(manifests|blobs)/([^/]+)", path)
        if not found or ns != [registry] or found.group(1) != repository:
            return self.missing()
        kind, digest = found.group(2), found.group(3)
        if kind == "manifests":
            digest = tags.get(digest, digest)
        if not re.fullmatch("sha256:[0-9a-f]{64}", digest) or digest in read("lacks").split():
            return self.missing()
        try:
            with open(f"{layout}/blobs/sha256/{digest[7:]}", "rb") as f:
                data = f.read()
        except FileNotFoundError:
            return self.missing()
        headers = {"Docker-Content-Digest": digest, "OCI-Namespace": registry}
        if kind == "manifests":
            return self.answer(200, {"Content-Type": json.loads(data)["mediaType"], **headers}, data)
        headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", **headers}
        try:
            part = part_of(self.headers.get("Range"), len(data))
        except ValueError:
            return self.answer(416, {"Content-Range": f"bytes */{len(data)}"}, b"")
        if part is None:
            return self.answer(200, headers, data)
        first, last = part
        return self.answer(206, {"Content-Range": f"bytes {first}-{last}/{len(data)}", **headers}, data[first:last + 1])

    def missing(self):
        return self.answer(404, {"Content-Type": "application/json"}, b'{"errors": [{"code": "BLOB_UNKNOWN", "message": "no peer"}]}')

    def answer(self, status, headers, body):
        mood = mood_of(self.path) if status < 400 else {}
        time.sleep(mood.get("delay", 0))
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return status
        end = min(len(body), mood.get("drop", len(body)))
        step = max(1, mood["rate"] // 20) if "rate" in mood else 1 << 16
        while self.sent < end:
            self.wfile.write(body[self.sent:min(end, self.sent + step)])
            self.sent = min(end, self.sent + step)
            if "rate" in mood:
                time.sleep(step / mood["rate"])
        if end < len(body):
            self.close_connection = True
        return status


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


server = Server(("127.0.0.1", 0), Handler)
with open(folder + "/port.new", "w") as f:
    f.write(str(server.server_address[1]))
os.rename(folder + "/port.new", folder + "/port")
server.serve_forever()
