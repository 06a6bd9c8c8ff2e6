#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The image of the parity suite: image.py DIR writes it as an OCI layout, one layer, every directory named.

What the checks need by name is here; names and files that are merely odd come from the golden suite. Its
programs are a few instructions each, since they run in a tree that has nothing else: geteuid and getegid
end with what they ask for, setuid with 0 when it may become root and with EPERM when not.
"""
import os
import platform
import random
import struct
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from oci import Tar, simple_image  # noqa: E402

HUGE = 5 << 30  # beyond what 32 bits hold, both signed and not
# GNU tar, which unpacks it for the comparison, reads each run of data but the last in whole blocks.
HUGE_DATA = [(0, b"begin".ljust(512, b".")), ((1 << 31) - 512, b"across 2 GiB".ljust(1024, b".")),
             ((1 << 32) + 4096, b"beyond 4 GiB".ljust(512, b".")), (HUGE - 4, b"last")]
X86 = platform.machine() == "x86_64"


def program(number):
    """A static executable that ends with the result of system call `number`, whose argument is 0."""
    if X86:
        ask = b"\x31\xff\xb8" + struct.pack("<I", number) + b"\x0f\x05"
        code = ask + b"\x85\xc0\x79\x02\xf7\xd8" + b"\x89\xc7\xb8\x3c\0\0\0\x0f\x05"
    else:
        move = lambda register, value: 0xd2800000 | value << 5 | register
        ask = [move(0, 0), move(8, number), 0xd4000001]  # svc
        code = struct.pack("<7I", *ask, 0xf100001f, 0xda80a400, move(8, 93), 0xd4000001)  # cmp; cneg if lt
    size, base = 64 + 56 + len(code), 0x400000
    head = b"\x7fELF\2\1\1" + b"\0" * 9
    head += struct.pack("<HHIQQQIHHHHHH", 2, 62 if X86 else 183, 1, base + 120, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    return head + struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, size, size, 4096) + code


GETEUID, GETEGID, SETUID = (107, 108, 105) if X86 else (175, 177, 146)
RETURN_42 = b"\xb8\x2a\0\0\0\xc3" if X86 else struct.pack("<II", 0x52800540, 0xd65f03c0)


def acl(*entries):
    return struct.pack("<I", 2) + b"".join(struct.pack("<HHI", *entry) for entry in entries)


def programs(t):
    cap_setuid = struct.pack("<IIIII", 0x02000001, 1 << 7, 0, 0, 0)
    t.dir("bin").file("bin/prog", program(GETEUID), mode=0o755).file("bin/plain", program(GETEUID), mode=0o644)
    t.file("bin/setuid", program(GETEUID), mode=0o4755, uid=42)
    t.file("bin/setgid", program(GETEGID), mode=0o2755, gid=43)
    t.file("bin/capable", program(SETUID), mode=0o755, xattrs={"security.capability": cap_setuid})
    t.file("bin/incapable", program(SETUID), mode=0o755).file("bin/private", program(GETEUID), mode=0o700)
    t.file("bin/group", program(GETEUID), mode=0o710, gid=2000).file("bin/code", RETURN_42, mode=0o755)
    t.file("bin/script", b"#!/bin/setuid\n", mode=0o755).file("bin/relative", b"#!bin/prog\n", mode=0o755)
    t.file("bin/lost", b"#!/no/such/interpreter\n", mode=0o755).file("bin/text", b"hello\n", mode=0o755)
    t.file("bin/nothing", b"", mode=0o755)


def files(t):
    rng = random.Random(3)
    t.dir("files")
    for size in (0, 1, 511, 512, 513, 4095, 4096, 4097, 65536, 300001):
        t.file(f"files/{size}", rng.randbytes(size))
    t.file("files/big", rng.randbytes((8 << 20) + 777)).file("files/zeros", b"\0" * 100000)
    holes = [(65536, b"h" * 4096), (524288, b"i" * 512), (1 << 20, b"")]
    t.dir("sparse").sparse_pax("sparse/holes", 1 << 20, holes, "1.0")
    t.sparse_pax("sparse/end", 300000, [(4096, b"p" * 4096), (299999, b"E")], "1.0")
    t.sparse_pax("sparse/hole", 123456, [(123456, b"")], "1.0").sparse_pax("sparse/huge", HUGE, HUGE_DATA, "1.0")
    t.dir("hard").file("hard/a", b"one file", mode=0o640, uid=3)
    t.hardlink("hard/b", "hard/a", mode=0o640, uid=3).dir("hard/d").hardlink("hard/d/c", "hard/a", mode=0o640, uid=3)


def links(t):
    t.dir("links").symlink("links/file", "../files/513").symlink("links/dir", "../files")
    t.symlink("links/dangling", "none")
    t.symlink("links/absolute", "/files/513").symlink("links/self", "self").symlink("links/up", "../../../../files/1")
    t.symlink("links/ping", "pong").symlink("links/pong", "ping").symlink("links/through-file", "../files/1/x")
    t.symlink("links/slash", "../files/513/").symlink("links/long", "x" * 4095)
    t.symlink("links/dots", "././.././links/.").symlink("links/0", "../files/1")
    for i in range(1, 43):  # the kernel follows 40
        t.symlink(f"links/{i}", str(i - 1))


def special(t):
    t.dir("special").add("special/fifo", "6", mode=0o666).hardlink("special/fifo2", "special/fifo", mode=0o666)
    t.add("special/null", "3", mode=0o666, dev=(1, 3)).add("special/zero", "3", mode=0o644, dev=(1, 5))
    t.add("special/closed", "3", mode=0, dev=(1, 3)).add("special/block", "4", mode=0o660, gid=6, dev=(8, 3))
    t.add("special/nobody", "3", mode=0o666, dev=(4000, 70000)).add("special/private", "6", mode=0o600)


def permissions(t):
    t.dir("modes")
    for mode in (0o400, 0o040, 0o004, 0o200, 0o020, 0o002, 0o100, 0o010, 0o001, 0o604, 0o064, 0o777, 0):
        t.file(f"modes/f{mode:03o}", b"secret", mode=mode, uid=1000, gid=2000)
    for mode in (0o700, 0o711, 0o744, 0o770, 0o707, 0o755, 0o555, 0, 0o1777, 0o2775):
        t.dir(f"modes/d{mode:04o}", mode=mode, uid=1000, gid=2000).file(f"modes/d{mode:04o}/in", b"x")
    t.dir("owned", uid=1000, gid=2000).file("owned/file", b"mine", uid=1000, gid=2000).dir("owned/empty", uid=1000)
    t.symlink("owned/link", "file", uid=1000, gid=2000)


def names(t):
    t.dir("names")
    for size in range(1, 256):
        t.file("names/" + f"{size:03}"[:size].ljust(size, "n"), b"")
    t.dir("odd").file(b"odd/latin1-\xe9", b"1", fmt="gnu").file(b"odd/\xff\xfe\xfd", b"2", fmt="gnu").dir("odd/none")
    t.file("odd/new\nline", b"3").symlink("odd/link", b"latin1-\xe9", fmt="gnu").dir("odd/dir").dir("odd/dir/inner")
    t.dir("many")
    for i in range(1500):
        t.file(f"many/{i * 7919 % 1500:04}-entry", b"")


def attributes(t):
    several = {"user.one": b"value", "user.empty": b"", "user.bytes": b"a\0\xff"}
    t.dir("xattrs").file("xattrs/file", b"f", xattrs=several)
    t.dir("xattrs/dir", xattrs={"user.on.dir": b"1", "trusted.dir": b"2"})
    t.file("xattrs/trusted", b"t", xattrs={"trusted.thing": b"yes", "user.thing": b"too"}, mode=0o644)
    t.file("xattrs/only-trusted", b"t", xattrs={"trusted.thing": b"yes"})
    t.file("xattrs/secret", b"s", mode=0o600, xattrs={"user.secret": b"hidden"})
    t.file("xattrs/security", b"s", xattrs={"security.mine": b"label"}).file("xattrs/none", b"n")
    t.file("xattrs/longname", b"l", xattrs={"user." + "n" * 250: b"v"})
    t.file("xattrs/large", b"l", xattrs={"user.l": b"q" * 3000})


def with_acls():
    # rw for the owner, r for user 1000, none for the others: only the list lets 1000 in; it keeps 1001 out of what
    # the mode alone would open.
    t = Tar().dir("./")
    lets = acl((1, 6, 0xffffffff), (2, 4, 1000), (4, 0, 0xffffffff), (16, 4, 0xffffffff), (32, 0, 0xffffffff))
    bars = acl((1, 6, 0xffffffff), (2, 0, 1001), (4, 4, 0xffffffff), (16, 4, 0xffffffff), (32, 4, 0xffffffff))
    t.file("lets-1000", b"l", mode=0o640, xattrs={"system.posix_acl_access": lets})
    t.file("bars-1001", b"b", mode=0o644, xattrs={"system.posix_acl_access": bars})
    t.dir("default", xattrs={"system.posix_acl_default": lets}).file("none", b"n")
    return t


def everything():
    t = Tar().dir("./", mtime=1500000000)
    for part in (programs, files, links, special, permissions, names, attributes):
        part(t)
    return t


if __name__ == "__main__":
    simple_image(sys.argv[1] + "/everything", [everything()])
    simple_image(sys.argv[1] + "/acls", [with_acls()])
