#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A proxy in front of a registry that records what is asked and misbehaves on demand.

proxy.py UPSTREAM DIR   listens on a free port of 127.0.0.1, which it writes to DIR/port.
  DIR/requests   one JSON object a line, when the answer ended: method, path, range (header or null),
                 status, sent (bytes of body), length (promised), cut (true when the proxy or the
                 client ended it early), began, ended (seconds), authorization (true or false)
  DIR/began      one line "METHOD path" a request, when it arrived
  DIR/rules      JSON list, read at every request; the first rule that fits and is not used up:
                 {"path": regex, "method": regex, "agent": regex, "times": N,
                  "status": S, "headers": {}, "body": "..."  answer this, do not ask upstream
                  "cut": N        close the connection after N bytes of body
                  "rate": N       bytes a second
                  "delay": S      seconds before the answer
                  "hold": FILE    after `cut_hold` (default 0) bytes wait until FILE exists
                  "corrupt": N    flip a bit of byte N of the body
                  "lie": {}       headers to replace in the upstream's answer; null removes}
"""
import http.client
import http.server
import json
import os
import re
import socket
import sys
import threading
import time

upstream, folder = sys.argv[1:3]
lock = threading.Lock()
used = {}
connections = threading.local()


def find_rule(method, path, agent):
    try:
        with open(folder + "/rules") as f:
            rules = json.load(f)
    except (FileNotFoundError, ValueError):
        return {}
    with lock:
        for i, rule in enumerate(rules):
            key = rule.get("id", json.dumps(rule, sort_keys=True) + str(i))
            if not re.search(rule.get("path", ""), path) or not re.fullmatch(rule.get("method", ".*"), method):
                continue
            if not re.search(rule.get("agent", ""), agent):
                continue
            if used.get(key, 0) >= rule.get("times", 1 << 60):
                continue
            used[key] = used.get(key, 0) + 1
            return rule
    return {}


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def record(self, **fields):
        fields.update(method=self.command, path=self.path, range=self.headers.get("Range"),
                      began=self.began, ended=time.time(), authorization="Authorization" in self.headers)
        with lock, open(folder + "/requests", "a") as f:
            f.write(json.dumps(fields) + "\n")

    def handle_one_request(self):
        # Somebody tries TLS first: told in the way by which Go's clients know that this is a plain server.
        if self.rfile.peek(1)[:1] == b"\x16":
            self.wfile.write(b"HTTP/1.0 400 Bad Request\r\n\r\nThis is an HTTP server.\n")
            self.close_connection = True
            return
        super().handle_one_request()

    def end_early(self):
        # An orderly end, so that the client gets what was sent: then it is known what it has.
        self.close_connection = True
        try:
            self.wfile.flush()
            self.connection.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def handle_any(self):
        self.began = time.time()
        with lock, open(folder + "/began", "a") as f:
            f.write(f"{self.command} {self.path}\n")
        rule = find_rule(self.command, self.path, self.headers.get("User-Agent", ""))
        if "delay" in rule:
            time.sleep(rule["delay"])
        if "status" in rule:
            body = rule.get("body", "").encode()
            self.send_response(rule["status"])
            for name, value in rule.get("headers", {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)
            self.record(status=rule["status"], sent=len(body), length=len(body), cut=False)
            return
        self.forward(rule)

    def forward(self, rule):
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else None
        # A header may come in several lines, as Accept does.
        headers = {k: ", ".join(self.headers.get_all(k)) for k in self.headers.keys()
                   if k.lower() not in ("host", "connection")}
        headers["Host"] = self.headers.get("Host", upstream)
        connection = http.client.HTTPConnection(upstream, timeout=60)
        try:
            connection.request(self.command, self.path, body=body, headers=headers)
            answer = connection.getresponse()
        except OSError as error:
            self.send_error(502, str(error))
            return
        lies = {k.lower(): v for k, v in rule.get("lie", {}).items()}
        self.send_response(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in lies and name.lower() not in ("transfer-encoding", "connection"):
                self.send_header(name, value)
        for name, value in rule.get("lie", {}).items():
            if value is not None:
                self.send_header(name, value)
        promised = int(answer.headers.get("Content-Length") or 0)
        if "Content-Length" not in answer.headers and self.command != "HEAD":
            self.send_header("Connection", "close")
            self.close_connection = True
        self.end_headers()
        sent, cut = 0, False
        try:
            if self.command != "HEAD":
                sent, cut = self.copy(answer, rule)
        except (BrokenPipeError, ConnectionResetError):
            cut = True
            self.close_connection = True
            sent = self.sent
        self.record(status=answer.status, sent=sent, length=promised, cut=cut)
        connection.close()

    def copy(self, answer, rule):
        self.sent = 0
        cut, rate = rule.get("cut"), rule.get("rate")
        hold, hold_at, corrupt = rule.get("hold"), rule.get("cut_hold", 0), rule.get("corrupt")
        while True:
            want = 65536 if rate is None else max(1, min(65536, rate // 20))
            if hold and self.sent < hold_at:
                want = min(want, hold_at - self.sent)
            elif hold:
                self.wfile.flush()
                while not os.path.exists(hold):
                    time.sleep(0.02)
                    # A client that went away is not waited for.
                    if self.gone():
                        raise BrokenPipeError
                hold = None
            data = answer.read(want)
            if not data:
                return self.sent, False
            if corrupt is not None and self.sent <= corrupt < self.sent + len(data):
                data = bytearray(data)
                data[corrupt - self.sent] ^= 1
            if cut is not None and self.sent + len(data) > cut:
                data = data[:cut - self.sent]
                self.wfile.write(data)
                self.sent += len(data)
                self.end_early()
                return self.sent, True
            self.wfile.write(data)
            self.sent += len(data)
            if rate is not None:
                time.sleep(len(data) / rate)

    def gone(self):
        try:
            return self.connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = handle_any


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128

    def handle_error(self, request, client_address):
        pass


server = Server(("127.0.0.1", 0), Handler)
with open(folder + "/port.new", "w") as f:
    f.write(str(server.server_address[1]))
os.rename(folder + "/port.new", folder + "/port")
server.serve_forever()
