#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""What tests/lib/shaper.py says it does, it does. Time is only checked against what it must cost."""
import concurrent.futures
import hashlib
import http.client
import http.server
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import unittest

import shaper

SHAPER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "shaper.py")
BLOB = os.urandom(300_000)
LARGE = bytes(40_000_000)
BLOB_PATH = "/v2/img/blobs/sha256:" + hashlib.sha256(BLOB).hexdigest()
LARGE_PATH = "/v2/img/blobs/sha256:" + "0" * 64
seen = []


class Registry(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def take(self):
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            body = b""
            while size := int(self.rfile.readline(), 16):
                body += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return body
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self):
        body = self.take()
        seen.append((self.command, self.path, dict(self.headers), len(body)))
        if self.path.startswith("/private") and "Authorization" not in self.headers:
            return self.say(401, b"who?")
        if self.path == "/chunked":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for part in (b"hello ", b"world"):
                self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
            return self.wfile.write(b"0\r\n\r\n")
        if self.path == "/endless":
            self.send_response(200)
            self.send_header("Connection", "close")
            self.end_headers()
            self.wfile.write(BLOB)
            self.close_connection = True
            return None
        if self.command == "PUT":
            return self.say(201, hashlib.sha256(body).hexdigest().encode())
        blob = {BLOB_PATH: BLOB, LARGE_PATH: LARGE}.get(self.path)
        if blob is None:
            return self.say(404, b"none")
        if wanted := self.headers.get("Range"):
            first, last = (int(x) for x in wanted.removeprefix("bytes=").split("-"))
            part = blob[first:last + 1]
            return self.say(206, part, {"Content-Range": f"bytes {first}-{first + len(part) - 1}/{len(blob)}"})
        return self.say(200, blob)

    def say(self, status, body, headers=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_GET = do_HEAD = do_PUT = answer


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request, client_address):
        pass


class ShaperTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.registry = Server(("127.0.0.1", 0), Registry)
        threading.Thread(target=cls.registry.serve_forever, daemon=True).start()
        cls.folder = tempfile.TemporaryDirectory(prefix="imagefs-shaper.")
        cls.dir = cls.folder.name
        cls.process = subprocess.Popen(
            [sys.executable, SHAPER, "serve", f"127.0.0.1:{cls.registry.server_address[1]}", cls.dir])
        until = time.monotonic() + 20
        while not os.path.exists(cls.dir + "/ports"):
            assert time.monotonic() < until and cls.process.poll() is None, "the shaper does not start"
            time.sleep(0.02)
        with open(cls.dir + "/ports") as f:
            cls.ports = json.load(f)

    @classmethod
    def tearDownClass(cls):
        cls.ctl("stop")
        cls.process.wait(10)
        cls.folder.cleanup()
        cls.registry.shutdown()
        cls.registry.server_close()

    @classmethod
    def ctl(cls, *words):
        return shaper.speak(cls.dir, words)

    def setUp(self):
        self.ctl("rules", "[]")
        self.ctl("set", "rate=0", "rate_up=0", "rtt=0", "slow_start=0", "redirect=0", "link_seconds=60", "link_uses=0")
        self.ctl("reset")
        seen.clear()

    def rules(self, *rules):
        self.assertEqual(self.ctl("rules", json.dumps(rules)), {"rules": len(rules)})

    def connect(self, port="api"):
        connection = http.client.HTTPConnection("127.0.0.1", self.ports[port], timeout=20)
        self.addCleanup(connection.close)
        return connection

    def get(self, path, connection=None, method="GET", **options):
        connection = connection or self.connect()
        connection.request(method, path, **options)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers

    def logged(self):
        # A line is written when the answer has ended, which the client may know first.
        time.sleep(0.1)
        with open(self.dir + "/requests") as f:
            return [json.loads(line) for line in f]

    def test_passes_on(self):
        connection = self.connect()
        self.assertEqual(self.get(BLOB_PATH, connection)[:2], (200, BLOB))
        status, body, headers = self.get(BLOB_PATH, connection, headers={"Range": "bytes=10-19"})
        self.assertEqual((status, body), (206, BLOB[10:20]))
        self.assertEqual(headers["Content-Range"], "bytes 10-19/300000")
        status, body, headers = self.get(BLOB_PATH, connection, "HEAD")
        self.assertEqual((status, body, headers["Content-Length"]), (200, b"", "300000"))
        self.assertEqual(self.get("/chunked", connection)[1], b"hello world")
        self.assertEqual(self.get("/none", connection)[0], 404)
        self.assertEqual(self.get("/endless")[1], BLOB)
        digest = hashlib.sha256(BLOB).hexdigest().encode()
        self.assertEqual(self.get("/put", connection, "PUT", body=BLOB)[:2], (201, digest))
        parts = (BLOB[i:i + 1000] for i in range(0, len(BLOB), 1000))
        self.assertEqual(self.get("/put", connection, "PUT", body=parts, encode_chunked=True,
                                  headers={"Transfer-Encoding": "chunked"})[:2], (201, digest))
        last = self.logged()[-1]
        self.assertEqual((last["method"], last["path"], last["status"], last["taken"]), ("PUT", "/put", 201, 300000))
        totals = self.ctl("totals")
        self.assertEqual((totals["requests"], totals["connections"]), (8, 2))
        self.assertEqual(totals["sent_by_kind"]["blobs"], 300010)
        self.assertEqual(totals["by_status"], {"200": 4, "206": 1, "404": 1, "201": 2})

    def test_rate_is_shared(self):
        self.ctl("set", "rate=8Mbit")
        began = time.monotonic()
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            bodies = list(pool.map(lambda _: self.get(BLOB_PATH)[1], range(4)))
        # 1.2 MB at 1 MB/s.
        self.assertGreater(time.monotonic() - began, 1.0)
        self.assertTrue(all(body == BLOB for body in bodies))
        self.ctl("set", "rate=0", "rate_up=1MB")
        began = time.monotonic()
        self.get("/put", method="PUT", body=BLOB)
        self.assertGreater(time.monotonic() - began, 0.25)

    def test_round_trips(self):
        self.ctl("set", "rtt=100")
        connection = self.connect()
        for cost in (0.2, 0.1, 0.1):
            began = time.monotonic()
            self.get("/none", connection)
            self.assertGreater(time.monotonic() - began, cost - 0.002)

    def test_slow_start(self):
        self.ctl("set", "rtt=40", "slow_start=1")
        began = time.monotonic()
        self.assertEqual(self.get(BLOB_PATH)[1], BLOB)
        # 14600 * (1 + 2 + 4 + 8 + 16) > 300000: the request's two and four more.
        self.assertGreater(time.monotonic() - began, 0.04 * 6 - 0.005)

    def test_cut(self):
        for reset in (False, True):
            self.rules({"path": "/blobs/", "cut": 1000, "reset": reset, "times": 1})
            connection = self.connect()
            connection.request("GET", BLOB_PATH)
            answer = connection.getresponse()
            with self.assertRaises((http.client.IncompleteRead, ConnectionResetError)) as caught:
                answer.read()
            if not reset:
                self.assertEqual(caught.exception.partial, BLOB[:1000])
            connection.close()
            last = self.logged()[-1]
            self.assertEqual((last["sent"], last["cut"], last["faults"]), (1000, True, ["cut"]))
            self.assertEqual(self.get(BLOB_PATH)[1], BLOB)

    def test_cut_request(self):
        self.rules({"method": "PUT", "cut_request": 1000, "times": 1})
        with self.assertRaises((http.client.HTTPException, OSError)):
            self.get("/put", method="PUT", body=BLOB)
        last = self.logged()[-1]
        self.assertEqual((last["status"], last["taken"], last["faults"]), (0, 1000, ["cut_request"]))
        self.assertEqual(self.get("/put", method="PUT", body=BLOB)[0], 201)

    def test_wrong_byte(self):
        wrong = bytearray(BLOB)
        wrong[150_000] ^= 1
        self.rules({"path": "/blobs/", "wrong_byte": 150_000})
        self.assertEqual(self.get(BLOB_PATH)[1], wrong)
        part = {"Range": "bytes=149000-150999"}
        self.assertEqual(self.get(BLOB_PATH, headers=part)[1], wrong[149_000:151_000])
        self.assertEqual(self.get(BLOB_PATH, headers={"Range": "bytes=0-149999"})[1], BLOB[:150_000])
        # Once: an answer without the byte does not count.
        self.rules({"path": "/blobs/", "wrong_byte": 150_000, "times": 1})
        self.assertEqual(self.get(BLOB_PATH, headers={"Range": "bytes=0-9"})[1], BLOB[:10])
        self.assertEqual(self.get(BLOB_PATH, headers=part)[1], wrong[149_000:151_000])
        self.assertEqual(self.get(BLOB_PATH, headers=part)[1], BLOB[149_000:151_000])
        self.assertEqual([r["faults"] for r in self.logged()[-3:]], [[], ["wrong_byte"], []])

    def test_answers_on_purpose(self):
        self.rules({"nth": 2, "status": 429, "retry_after": 3})
        answers = [self.get("/none") for _ in range(3)]
        self.assertEqual([a[0] for a in answers], [404, 429, 404])
        self.assertEqual(answers[1][2]["Retry-After"], "3")
        self.rules({"every": 3, "status": 503, "body": "busy"})
        self.assertEqual([self.get("/none")[0] for _ in range(6)], [404, 404, 503, 404, 404, 503])
        self.rules({"share": 0.5, "status": 500})
        failed = sum(self.get("/none")[0] == 500 for _ in range(40))
        self.assertTrue(5 < failed < 35, failed)
        self.rules({"path": "/none", "method": "HEAD", "status": 500, "times": 1})
        self.assertEqual([self.get("/none", method=m)[0] for m in ("GET", "HEAD", "HEAD")], [404, 500, 404])
        asked = len(seen)
        self.rules({"status": 500, "delay": 0.1})
        connection = self.connect()
        self.assertEqual(self.get("/put", connection, "PUT", body=BLOB)[0], 500)
        self.assertEqual(self.get("/put", connection, "PUT", body=BLOB)[0], 500)
        self.assertEqual(len(seen), asked)

    def test_ranges_can_be_ignored(self):
        self.rules({"ignore_range": True})
        self.assertEqual(self.get(BLOB_PATH, headers={"Range": "bytes=0-9"})[:2], (200, BLOB))

    def follow(self, location, **options):
        address, _, path = location.removeprefix("http://").partition("/")
        self.assertEqual(address, f"127.0.0.1:{self.ports['storage']}")
        return self.get("/" + path, self.connect("storage"), **options)

    def test_redirects(self):
        self.ctl("set", "redirect=1", "link_uses=2")
        status, _, headers = self.get(BLOB_PATH, headers={"Authorization": "Bearer x"})
        self.assertEqual(status, 307)
        link = headers["Location"]
        self.assertEqual(self.follow(link, headers={"Range": "bytes=5-9"})[:2], (206, BLOB[5:10]))
        # The registry behind sees the right of whom the link was given to; storage wants none.
        self.assertEqual(seen[-1][2]["Authorization"], "Bearer x")
        self.assertEqual(self.follow(link, headers={"Authorization": "Bearer x"})[0], 400)
        self.assertEqual(self.follow(link)[:2], (200, BLOB))
        self.assertEqual(self.follow(link)[0], 403)
        last = self.logged()[-2]
        self.assertEqual((last["port"], last["path"], last["sent"]), ("storage", BLOB_PATH, len(BLOB)))
        self.ctl("set", "link_uses=0", "link_seconds=0.2")
        link = self.get(BLOB_PATH)[2]["Location"]
        self.assertEqual(self.follow(link)[0], 200)
        time.sleep(0.3)
        self.assertEqual(self.follow(link)[0], 403)
        # What there is no blob for is the registry's to answer; so is everything but blobs.
        self.assertEqual(self.get("/v2/img/blobs/sha256:12")[0], 404)
        self.assertEqual(self.get("/private")[0], 401)
        self.rules({"port": "storage", "wrong_byte": 7})
        link = self.get(BLOB_PATH)[2]["Location"]
        self.assertEqual(self.follow(link)[1][7], BLOB[7] ^ 1)

    def test_commands(self):
        self.assertIn("error", self.ctl("set", "speed=1"))
        self.assertIn("error", self.ctl("set", "rate=fast"))
        self.assertIn("error", self.ctl("rules", "nonsense"))
        self.assertIn("error", self.ctl("dance"))
        self.ctl("set", "rate=100Mbit")
        self.assertEqual(self.ctl("state")["settings"]["rate"], 12.5e6)
        ctl = [sys.executable, SHAPER, "ctl", self.dir]
        self.assertEqual(subprocess.run(ctl + ["dance"], stdout=subprocess.DEVNULL).returncode, 1)
        done = subprocess.run(ctl + ["set", "rtt=5", "redirect=1"], stdout=subprocess.PIPE)
        self.assertEqual(done.returncode, 0)
        self.assertEqual(json.loads(done.stdout)["rtt"], 5)
        text = subprocess.run([sys.executable, SHAPER, "--help"], stdout=subprocess.PIPE, text=True).stdout
        for word in ("wrong_byte", "rtt=50", "totals", "Examples"):
            self.assertIn(word, text)

    def test_large_answers_are_not_held_up(self):
        began = time.monotonic()
        self.assertEqual(self.get(LARGE_PATH)[1], LARGE)
        # A machine that is busy with other tests is slow, a copy byte by byte is slower.
        self.assertLess(time.monotonic() - began, 10)


if __name__ == "__main__":
    unittest.main(verbosity=2)
