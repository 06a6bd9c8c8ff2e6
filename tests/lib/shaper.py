#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A network between a client and a registry, as bad as you say: for benchmarks and fault tests.

  shaper.py serve UPSTREAM DIR [options]     UPSTREAM is host:port of a plain HTTP registry
  shaper.py ctl DIR COMMAND [ARGUMENT...]    speaks to a running one

`serve` listens on free ports of 127.0.0.1 and writes DIR/ports when it is ready: a JSON object with
"api" (use 127.0.0.1:<api> as the registry), "storage" and "control". It logs each request to
DIR/requests, one JSON object a line, when its answer has ended:

  began, seconds     when it arrived (seconds since 1970), how long it took
  port               "api" or "storage"
  connection         number of the client's connection, from 1
  method, path       of a redirected blob, `path` is the blob's and not the link's
  range              the Range header, or null
  status             0 when the connection ended without an answer
  sent, taken        bytes of the answer's body, and of the request's that were passed on
  cut                the answer ended early, by a fault or by the client
  faults             what was done to it on purpose, e.g. ["cut"]
  authorization      whether the request carried that header

The line (options of `serve`, or `ctl DIR set NAME=VALUE...`):
  rate=100Mbit       all answers' bodies of all connections together; also "12.5MB", 0 = no limit
  rate_up=10Mbit     the same for requests' bodies
  rtt=50             milliseconds: each request costs as much once, half on its way and half on the
                     way back; the first of a connection costs it once more (the handshake)
  slow_start=1       a connection sends 14600 bytes in its first round trip, twice as many in each
                     that follows, and begins again after a pause (needs rtt)
  redirect=1         GET of a blob answers 307 to the storage port with a link of its own; storage
                     answers 400 to an Authorization header
  link_seconds=60    what a link is good for; 403 afterwards. 0 = no limit
  link_uses=0        the same by the number of requests

Faults are rules, a JSON list: --rules, or `ctl DIR rules LIST`. Every rule that fits a request and
is due applies to it; counters begin anew with each list:
  {"path": REGEX, "method": REGEX, "port": "api"|"storage"   which requests fit; all by default
   "nth": N | "every": N | "share": 0.1                      which of those are due; all by default
   "times": N                                                how often it applies at most
   and what happens:
   "status": S, "retry_after": SECONDS, "headers": {}, "body": TEXT   this answer; UPSTREAM is not asked
   "delay": SECONDS                before the answer
   "cut": N                        the connection ends after N bytes of the answer's body
   "reset": true                   ... and not in an orderly way
   "cut_request": N                the connection ends when N bytes of the request's body were passed on
   "wrong_byte": N                 byte N of the blob is wrong wherever an answer has it, also in a
                                   part; "times" counts the answers that had it
   "ignore_range": true            the Range header is not passed on}

Commands of `ctl`: set NAME=VALUE..., rules LIST, totals, reset (the totals), state, stop. Each prints
a JSON object. `totals` has requests, connections, open, sent, taken, by_status, and sent_by_kind
(blobs, manifests, referrers, other).

Examples
  100 Mbit/s with 50 ms:    shaper.py serve 127.0.0.1:5000 DIR --rate 100Mbit --rtt 50 --slow-start
  one wrong byte, once:     shaper.py ctl DIR rules '[{"path": "/blobs/", "wrong_byte": 1000, "times": 1}]'
  every 10th answer a 429:  shaper.py ctl DIR rules '[{"every": 10, "status": 429, "retry_after": 1}]'
  how much was loaded:      shaper.py ctl DIR totals
"""
import argparse
import asyncio
import json
import os
import random
import re
import secrets
import socket
import struct
import sys
import time

BUFFER = 1 << 20
INITIAL_WINDOW = 14600
MOST_WINDOW = 1 << 26
BLOB = re.compile(r"/v2/.+/blobs/[a-z0-9]+:[0-9a-f]+$")
SETTINGS = {"rate": 0, "rate_up": 0, "rtt": 0, "slow_start": 0, "redirect": 0, "link_seconds": 60, "link_uses": 0}


def parse_rate(text):
    """Bytes a second: "100Mbit", "12.5MB", "125000"."""
    match = re.fullmatch(r"([0-9.]+)\s*([kMG]?)(bit|B)?", str(text))
    if not match:
        raise ValueError(f"{text!r} is no rate; write 100Mbit or 12.5MB")
    factor = {"": 1, "k": 1e3, "M": 1e6, "G": 1e9}[match[2]]
    return float(match[1]) * factor / (8 if match[3] == "bit" else 1)


def parse_setting(name, value):
    if name not in SETTINGS:
        raise ValueError(f"there is no setting {name!r}; there are {', '.join(SETTINGS)}")
    return parse_rate(value) if name.startswith("rate") else float(value)


class Bucket:
    """A rate that all share: each piece is given its time on the line in order of asking."""

    def __init__(self):
        self.free_at = 0.0

    async def take(self, size, rate):
        now = time.monotonic()
        # A line that was idle has nothing saved up but a moment's worth.
        self.free_at = max(self.free_at, now - 0.005) + size / rate
        if self.free_at > now:
            await asyncio.sleep(self.free_at - now)

    @staticmethod
    def piece(rate):
        return BUFFER if not rate else max(4096, min(BUFFER, int(rate / 100)))


class Link:
    """One direction of one connection: the shared rate, and slow start of its own."""

    def __init__(self, bucket):
        self.bucket = bucket
        self.window = INITIAL_WINDOW
        self.in_round = 0
        self.round_began = self.last = 0.0

    def piece(self, rate, rtt, slow_start):
        most = Bucket.piece(rate)
        if slow_start and rtt:
            # When the round is used up, the piece is of the next one.
            most = min(most, self.window - self.in_round if self.in_round < self.window else 2 * self.window)
        return most

    async def pace(self, size, rate, rtt, slow_start):
        if slow_start and rtt:
            now = time.monotonic()
            if now - self.last > max(0.2, 2 * rtt):
                self.window = INITIAL_WINDOW
                self.in_round, self.round_began = 0, now
            elif self.in_round >= self.window:
                await asyncio.sleep(max(0, self.round_began + rtt - now))
                self.window = min(MOST_WINDOW, self.window * 2)
                self.in_round, self.round_began = 0, time.monotonic()
            self.in_round += size
        if rate:
            await self.bucket.take(size, rate)
        self.last = time.monotonic()


class Closed(Exception):
    pass


class Stream:
    """A socket with what was read from it and not used."""

    def __init__(self, sock):
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.loop = asyncio.get_running_loop()
        self.rest = bytearray()
        self.buffer = None

    async def fill(self):
        data = await self.loop.sock_recv(self.sock, 65536)
        if not data:
            raise Closed
        self.rest += data

    async def head(self):
        """Bytes up to the empty line; None at an end between messages."""
        while (end := self.rest.find(b"\r\n\r\n")) < 0:
            if len(self.rest) > 1 << 18:
                raise Closed
            try:
                await self.fill()
            except Closed:
                if self.rest:
                    raise
                return None
        head = bytes(self.rest[:end])
        del self.rest[:end + 4]
        return head

    async def line(self):
        while (end := self.rest.find(b"\r\n")) < 0:
            await self.fill()
        line = bytes(self.rest[:end])
        del self.rest[:end + 2]
        return line

    async def some(self, most):
        """Up to `most` bytes, valid until the next call; empty at the end."""
        if self.rest:
            data = self.rest[:most]
            del self.rest[:most]
            return memoryview(data)
        if self.buffer is None:
            self.buffer = bytearray(BUFFER)
        view = memoryview(self.buffer)[:min(most, BUFFER)]
        count = await self.loop.sock_recv_into(self.sock, view)
        return view[:count]

    async def send(self, data):
        await self.loop.sock_sendall(self.sock, data)

    def close(self):
        self.sock.close()


class Body:
    """The body of a message, however its end is marked. `length` is None when it is not told."""

    def __init__(self, stream, headers, none=False):
        self.stream = stream
        self.chunked = not none and "chunked" in headers.get("transfer-encoding", "").lower()
        length = headers.get("content-length")
        self.length = 0 if none else None if self.chunked or length is None else int(length)
        self.left = self.length
        self.chunk = 0
        self.ended = none or self.length == 0

    async def some(self, most):
        if self.ended:
            return b""
        if self.chunked:
            if self.chunk == 0:
                self.chunk = int((await self.stream.line()).split(b";")[0], 16)
                if self.chunk == 0:
                    while await self.stream.line():
                        pass
                    self.ended = True
                    return b""
            data = await self.stream.some(min(most, self.chunk))
            self.chunk -= len(data)
            if self.chunk == 0:
                await self.stream.line()
        else:
            data = await self.stream.some(most if self.left is None else min(most, self.left))
            if self.left is not None:
                self.left -= len(data)
                self.ended = self.left == 0
        if not data:
            if self.length is not None or self.chunked:
                raise Closed
            self.ended = True
        return data


def parse_head(head):
    lines = head.decode("latin-1").split("\r\n")
    fields = [line.partition(":")[::2] for line in lines[1:]]
    fields = [(name.strip(), value.strip()) for name, value in fields]
    return lines[0], fields, {name.lower(): value for name, value in fields}


class Rule:
    def __init__(self, fields):
        self.fields = fields
        self.path, self.method = re.compile(fields.get("path", "")), re.compile(fields.get("method", ".*"))
        self.seen = self.used = 0

    def left(self):
        return self.used < self.fields.get("times", 1 << 60)

    def due(self, port, method, path):
        f = self.fields
        if f.get("port", port) != port or not self.path.search(path) or not self.method.fullmatch(method):
            return False
        self.seen += 1
        if not self.left() or ("nth" in f and self.seen != f["nth"]) or ("every" in f and self.seen % f["every"]):
            return False
        if "share" in f and Shaper.random.random() >= f["share"]:
            return False
        if "wrong_byte" not in f:
            self.used += 1
        return True


class Shaper:
    random = random.Random(1)

    def __init__(self, upstream, folder, settings, rules):
        host, _, port = upstream.rpartition(":")
        self.upstream = (host, int(port))
        self.folder = folder
        self.settings = settings
        self.set_rules(rules)
        self.down, self.up = Bucket(), Bucket()
        self.links = {}  # token: [path, headers, good until, uses left]
        self.log = open(folder + "/requests", "a", buffering=1)
        self.stopped = asyncio.Event()
        self.connections = self.open = 0
        self.tasks = set()
        self.ports = {}
        self.reset()

    def reset(self):
        self.totals = {"requests": 0, "connections": 0, "sent": 0, "taken": 0, "by_status": {}, "sent_by_kind": {}}

    def set_rules(self, rules):
        self.rules = [Rule(fields) for fields in rules]

    def rtt(self):
        return self.settings["rtt"] / 1000

    # ---- commands

    async def control(self, reader, writer):
        try:
            while line := await reader.readline():
                try:
                    answer = self.command(*json.loads(line))
                except Exception as error:  # whatever the words were
                    answer = {"error": str(error)}
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
        except ConnectionError:
            pass
        writer.close()

    def command(self, name, *words):
        if name == "set":
            changes = dict(word.split("=", 1) for word in words)
            self.settings.update({key: parse_setting(key, value) for key, value in changes.items()})
            return self.settings
        if name == "rules":
            self.set_rules(json.loads(words[0]))
            return {"rules": len(self.rules)}
        if name == "totals":
            return dict(self.totals, open=self.open)
        if name == "reset":
            self.reset()
            return {}
        if name == "state":
            rules = [dict(rule.fields, seen=rule.seen, used=rule.used) for rule in self.rules]
            return {"settings": self.settings, "rules": rules, "ports": self.ports, "links": len(self.links)}
        if name == "stop":
            self.stopped.set()
            return {}
        raise ValueError(f"there is no command {name!r}; there are set, rules, totals, reset, state, stop")

    # ---- connections

    async def accept(self, listener, port):
        loop = asyncio.get_running_loop()
        while True:
            sock, _ = await loop.sock_accept(listener)
            task = loop.create_task(self.serve(sock, port))
            self.tasks.add(task)
            task.add_done_callback(self.tasks.discard)

    async def serve(self, sock, port):
        self.connections += 1
        self.open += 1
        self.totals["connections"] += 1
        exchange = Exchange(self, Stream(sock), port, self.connections)
        try:
            while await exchange.one():
                pass
        except (Closed, OSError, ValueError):
            pass
        finally:
            self.open -= 1
            exchange.close()

    def record(self, entry):
        totals = self.totals
        totals["requests"] += 1
        totals["sent"] += entry["sent"]
        totals["taken"] += entry["taken"]
        status = str(entry["status"])
        totals["by_status"][status] = totals["by_status"].get(status, 0) + 1
        kind = re.search(r"/(blobs|manifests|referrers)/", entry["path"])
        kind = kind[1] if kind else "other"
        totals["sent_by_kind"][kind] = totals["sent_by_kind"].get(kind, 0) + entry["sent"]
        self.log.write(json.dumps(entry) + "\n")

    def new_link(self, path, headers):
        token = secrets.token_hex(16)
        seconds, uses = self.settings["link_seconds"], self.settings["link_uses"]
        self.links[token] = [path, headers, time.monotonic() + (seconds or 1e9), uses or 1 << 60]
        while len(self.links) > 10000:
            del self.links[next(iter(self.links))]
        return f"http://127.0.0.1:{self.ports['storage']}/link/{token}"

    async def run(self):
        loop = asyncio.get_running_loop()
        for name in ("api", "storage"):
            listener = socket.create_server(("127.0.0.1", 0), backlog=512)
            listener.setblocking(False)
            self.ports[name] = listener.getsockname()[1]
            self.tasks.add(loop.create_task(self.accept(listener, name)))
        server = await asyncio.start_server(self.control, "127.0.0.1", 0)
        self.ports["control"] = server.sockets[0].getsockname()[1]
        with open(self.folder + "/ports.new", "w") as f:
            json.dump(self.ports, f)
        os.rename(self.folder + "/ports.new", self.folder + "/ports")
        await self.stopped.wait()
        await asyncio.sleep(0.05)
        for task in list(self.tasks):
            task.cancel()


class Exchange:
    """One connection of a client, request by request, and the one to the registry behind it."""

    def __init__(self, shaper, client, port, number):
        self.shaper, self.client, self.port, self.number = shaper, client, port, number
        self.upstream = None
        self.first = True
        self.down, self.up = Link(shaper.down), Link(shaper.up)

    def close(self):
        self.client.close()
        if self.upstream:
            self.upstream.close()

    async def one(self):
        head = await self.client.head()
        if head is None:
            return False
        line, self.fields, self.headers = parse_head(head)
        self.method, self.path, _ = line.split(" ", 2)
        self.request = Body(self.client, self.headers,
                            "content-length" not in self.headers and "transfer-encoding" not in self.headers)
        began, clock = time.time(), time.monotonic()
        self.status = self.sent = self.taken = 0
        self.cut = False
        self.faults = []
        entry = {"path": self.path, "method": self.method}
        if self.headers.get("expect", "").lower() == "100-continue":
            await self.client.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        try:
            await self.sleep(self.shaper.rtt() * (1.5 if self.first else 0.5))
            self.first = False
            return await self.answer()
        except BaseException:
            self.cut = True
            raise
        finally:
            entry.update(began=began, seconds=round(time.monotonic() - clock, 4), port=self.port,
                         connection=self.number, path=self.path, range=self.headers.get("range"),
                         status=self.status, sent=self.sent, taken=self.taken, cut=self.cut, faults=self.faults,
                         authorization="authorization" in self.headers)
            self.shaper.record(entry)

    @staticmethod
    async def sleep(seconds):
        if seconds > 0:
            await asyncio.sleep(seconds)

    async def answer(self):
        extra = []
        if self.port == "storage":
            link = self.shaper.links.get(self.path.rpartition("/")[2])
            if "authorization" in self.headers:
                return await self.say(400, "two kinds of authorization")
            if link is None or time.monotonic() > link[2] or link[3] <= 0:
                return await self.say(403, "the link has expired")
            link[3] -= 1
            self.path, extra = link[0], link[1]
        fault = {}
        self.wrong = []
        for rule in self.shaper.rules:
            if rule.due(self.port, self.method, self.path):
                fault.update(rule.fields)
                if "wrong_byte" in rule.fields:
                    self.wrong.append(rule)
        await self.sleep(fault.get("delay", 0))
        if "delay" in fault:
            self.faults.append("delay")
        if "status" in fault:
            self.faults.append("status")
            headers = dict(fault.get("headers", {}))
            if "retry_after" in fault:
                headers["Retry-After"] = str(fault["retry_after"])
            return await self.say(fault["status"], fault.get("body", ""), headers)
        if (self.shaper.settings["redirect"] and self.port == "api" and self.method == "GET" and
                BLOB.search(self.path) and await self.exists()):
            authorization = [f for f in self.fields if f[0].lower() == "authorization"]
            return await self.say(307, "", {"Location": self.shaper.new_link(self.path, authorization)})
        return await self.forward(fault, extra)

    async def say(self, status, text, headers=None):
        while await self.request.some(BUFFER):
            pass
        self.taken = 0
        body = text.encode()
        head = f"HTTP/1.1 {status} Shaped\r\nContent-Length: {len(body)}\r\n"
        head += "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items()) + "\r\n"
        await self.sleep(self.shaper.rtt() / 2)
        self.status = status
        await self.client.send(head.encode() + (b"" if self.method == "HEAD" else body))
        self.sent = 0 if self.method == "HEAD" else len(body)
        return True

    # ---- the registry behind

    async def connect(self):
        sock = socket.socket()
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, self.shaper.upstream)
        self.upstream = Stream(sock)

    async def exists(self):
        """Whether the registry would give the blob to this client; else it answers itself."""
        head = await self.ask("HEAD", [f for f in self.fields if f[0].lower() != "range"], None, {})
        return head[0].split(" ")[1] == "200"

    async def ask(self, method, fields, body, fault):
        """Passes a request on and returns the head of its answer."""
        drop = {"connection", "expect", "keep-alive"} | ({"range"} if fault.get("ignore_range") else set())
        head = f"{method} {self.path} HTTP/1.1\r\n"
        head += "".join(f"{n}: {v}\r\n" for n, v in fields if n.lower() not in drop) + "\r\n"
        for attempt in range(2):
            fresh = self.upstream is None
            if fresh:
                await self.connect()
            try:
                await self.upstream.send(head.encode("latin-1"))
                if body is not None:
                    await self.pass_body(body, fault)
                answer = await self.upstream.head()
                while answer is not None and answer.split(b" ", 2)[1] == b"100":
                    answer = await self.upstream.head()
                if answer is not None:
                    return parse_head(answer)
            except (Closed, ConnectionError):
                if fresh or self.taken or self.faults:
                    raise
            # The registry had ended a connection that was idle.
            self.upstream.close()
            self.upstream = None
            if fresh or self.taken:
                break
        raise Closed

    async def pass_body(self, body, fault):
        settings = self.shaper.settings
        cut = fault.get("cut_request")
        while True:
            rate = settings["rate_up"]
            most = self.up.piece(rate, self.shaper.rtt(), settings["slow_start"])
            if cut is not None:
                if self.taken >= cut:
                    self.faults.append("cut_request")
                    raise Closed
                most = min(most, cut - self.taken)
            data = await body.some(most)
            if not data:
                break
            await self.up.pace(len(data), rate, self.shaper.rtt(), settings["slow_start"])
            self.taken += len(data)
            if body.chunked:
                await self.upstream.send(b"%x\r\n" % len(data))
            await self.upstream.send(data)
            if body.chunked:
                await self.upstream.send(b"\r\n")
        if body.chunked:
            await self.upstream.send(b"0\r\n\r\n")

    async def forward(self, fault, extra):
        fields = self.fields + extra
        line, answer_fields, headers = await self.ask(self.method, fields, self.request, fault)
        status = int(line.split(" ")[1])
        body = Body(self.upstream, headers, self.method == "HEAD" or status in (204, 304))
        ends = body.length is None and not body.chunked  # by the end of the connection
        head = f"HTTP/1.1 {status} Passed\r\n"
        for name, value in answer_fields:
            if name.lower() not in ("connection", "keep-alive"):
                head += f"{name}: {value}\r\n"
        if ends:
            head += "Connection: close\r\n"
        await self.sleep(self.shaper.rtt() / 2)
        self.status = status
        await self.client.send((head + "\r\n").encode("latin-1"))
        begin = 0
        if status == 206 and (match := re.match(r"bytes (\d+)-", headers.get("content-range", ""))):
            begin = int(match[1])
        kept = await self.pass_answer(body, begin, fault)
        if headers.get("connection", "").lower() == "close" or ends:
            self.upstream.close()
            self.upstream = None
        return kept and not ends

    async def pass_answer(self, body, begin, fault):
        """False when the connection was ended on purpose."""
        shaper, settings = self.shaper, self.shaper.settings
        cut = fault.get("cut")
        while True:
            rate, slow_start = settings["rate"], settings["slow_start"]
            most = self.down.piece(rate, shaper.rtt(), slow_start)
            if cut is not None:
                if self.sent >= cut and not body.ended:
                    return self.end(fault.get("reset", False))
                most = max(1, min(most, cut - self.sent))
            data = await body.some(most)
            if not data:
                break
            if self.wrong:
                data = self.spoil(data, begin + self.sent)
            if rate or slow_start:
                await self.down.pace(len(data), rate, shaper.rtt(), slow_start)
            if body.chunked:
                await self.client.send(b"%x\r\n" % len(data))
            await self.client.send(data)
            if body.chunked:
                await self.client.send(b"\r\n")
            self.sent += len(data)
        if body.chunked:
            await self.client.send(b"0\r\n\r\n")
        return True

    def spoil(self, data, at):
        for rule in self.wrong:
            offset = rule.fields["wrong_byte"] - at
            if 0 <= offset < len(data) and rule.left():
                data = bytearray(data)
                data[offset] ^= 1
                rule.used += 1
                self.faults.append("wrong_byte")
        return data

    def end(self, reset):
        self.faults.append("cut")
        self.cut = True
        if reset:
            self.client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        else:
            # So that the client gets what was sent, and it is known what it has.
            self.client.sock.shutdown(socket.SHUT_WR)
        return False


def speak(folder, words):
    with open(folder + "/ports") as f:
        port = json.load(f)["control"]
    with socket.create_connection(("127.0.0.1", port), timeout=10) as sock, sock.makefile("rw") as stream:
        stream.write(json.dumps(words) + "\n")
        stream.flush()
        return json.loads(stream.readline())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     usage=argparse.SUPPRESS)
    verbs = parser.add_subparsers(dest="verb", required=True)
    serve = verbs.add_parser("serve", help="stand between clients and UPSTREAM")
    serve.add_argument("upstream")
    serve.add_argument("dir")
    for name in SETTINGS:
        switch = name in ("slow_start", "redirect")
        serve.add_argument("--" + name.replace("_", "-"), default=SETTINGS[name],
                           **({"action": "store_const", "const": 1} if switch else {}))
    serve.add_argument("--rules", default="[]", help="JSON list of faults")
    serve.add_argument("--seed", type=int, default=1, help="of the shares of requests")
    ctl = verbs.add_parser("ctl", help="speak to a running one")
    ctl.add_argument("dir")
    ctl.add_argument("words", nargs="+")
    args = parser.parse_args()
    if args.verb == "ctl":
        answer = speak(args.dir, args.words)
        print(json.dumps(answer))
        return 1 if "error" in answer else 0
    Shaper.random.seed(args.seed)
    settings = {name: parse_setting(name, getattr(args, name)) for name in SETTINGS}

    async def run():
        await Shaper(args.upstream, args.dir, settings, json.loads(args.rules)).run()

    asyncio.run(run())
    return 0


if __name__ == "__main__":
    sys.exit(main())
