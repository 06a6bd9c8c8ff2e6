#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A disk with a cache that forgets, for a virtual machine whose power is cut.

  volatile_disk.py FILE SOCKET SEED      serves FILE by NBD; says on its output what became of each connection

A write that was not flushed is in the disk's cache. When the connection is cut (the machine was killed), each of these
writes is on the disk wholly, in parts of whole sectors, or not at all, in no order: what a disk may do, and what the
page cache of a host that lives on would hide. A connection that ends by the protocol loses nothing."""
import os
import random
import socket
import struct
import sys

SECTOR = 512
READ, WRITE, DISCONNECT, FLUSH = range(4)
HAS_FLAGS, SEND_FLUSH = 1, 4


class Lost(Exception):
    """The machine is gone."""


class Disk:
    def __init__(self, path, seed):
        self.file = os.open(path, os.O_RDWR)
        self.size = os.path.getsize(path)
        self.dice = random.Random(seed)
        self.pending = []  # (offset, what was there, what is there now), in the order of the writes

    def read(self, offset, length):
        return os.pread(self.file, length, offset)

    def write(self, offset, data):
        self.pending.append((offset, os.pread(self.file, len(data), offset), data))
        os.pwrite(self.file, data, offset)

    def flush(self):
        self.pending.clear()

    def lose(self):
        """Back to the last flush, then what the disk had written by chance."""
        pending, self.pending = self.pending, []
        for offset, before, _ in reversed(pending):
            os.pwrite(self.file, before, offset)
        # Some disks have written nearly everything, some nearly nothing.
        kept, share = 0, self.dice.choice((0, 0.1, 0.5, 0.9))
        for offset, _, data in pending:
            at = 0
            while at < len(data):
                run = self.dice.choice((1, 8, 64, 1 << 16)) * SECTOR
                if self.dice.random() < share:
                    os.pwrite(self.file, data[at:at + run], offset + at)
                    kept += len(data[at:at + run])
                at += run
        return len(pending), sum(len(data) for _, _, data in pending), kept


class Connection:
    def __init__(self, connection, disk):
        self.connection, self.disk = connection, disk

    def take(self, count):
        out = bytearray()
        while len(out) < count:
            try:
                more = self.connection.recv(count - len(out))
            except ConnectionError:
                more = b""
            if not more:
                raise Lost
            out += more
        return bytes(out)

    def send(self, *parts):
        try:
            self.connection.sendall(b"".join(parts))
        except (BrokenPipeError, ConnectionError) as error:
            raise Lost from error

    def greet(self):
        self.send(b"NBDMAGICIHAVEOPT", struct.pack(">H", 3))
        self.take(4)
        while True:
            _, option, length = struct.unpack(">8sII", self.take(16))
            self.take(length)
            def reply(kind, data=b""):
                self.send(struct.pack(">QIII", 0x3E889045565A9, option, kind, len(data)), data)
            flags = HAS_FLAGS | SEND_FLUSH
            if option in (6, 7):  # what is it, and: go
                reply(3, struct.pack(">HQH", 0, self.disk.size, flags))
                reply(3, struct.pack(">HIII", 3, SECTOR, 4096, 1 << 25))
                reply(1)
                if option == 7:
                    return
            else:
                reply(0x80000001)

    def serve(self):
        self.greet()
        while True:
            magic, _, kind, cookie, offset, length = struct.unpack(">IHHQQI", self.take(28))
            assert magic == 0x25609513
            data = b""
            if kind == READ:
                data = self.disk.read(offset, length)
            elif kind == WRITE:
                self.disk.write(offset, self.take(length))
            elif kind == FLUSH:
                self.disk.flush()
            elif kind == DISCONNECT:
                return
            self.send(struct.pack(">IIQ", 0x67446698, 0 if kind in (READ, WRITE, FLUSH) else 22, cookie), data)


def main(path, where, seed):
    disk = Disk(path, seed)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(where)
    listening.listen(1)
    while True:
        connection = listening.accept()[0]
        try:
            Connection(connection, disk).serve()
            disk.flush()
            print("ended", flush=True)
        except Lost:
            print("cut writes=%d bytes=%d kept=%d" % disk.lose(), flush=True)
        connection.close()


main(*sys.argv[1:])
