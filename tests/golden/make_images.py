#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The image suite: small images that together hold every odd thing a layer may hold.

make_images.py DIR [NAME...] writes each as an OCI layout DIR/NAME (tag "latest") and DIR/NAME.json:
  loose     directories whose modification time no runtime agrees on (implied in the topmost layer
            that touches them)
  refused   runtimes that do not accept the image ("containerd", "podman")
  differs   runtimes that accept it and show something else than they should: something, and
            nothing besides what "expect" names
  expect    {path: {field: value} | null}, for what not every runtime shows; null = must be absent
  same_as   the image whose tree this one must equal
make_images.py --list prints the names.
"""
import json
import os
import random
import struct
import sys
import zlib

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from oci import *  # noqa: E402,F403

IMAGES = {}


def image(name=None, **meta):
    def register(function):
        IMAGES[name or function.__name__.replace("_", "-")] = (function, meta)
        return function
    return register


def base():
    t = Tar()
    t.dir("bin").dir("etc").dir("usr").dir("usr/lib").dir("var", mode=0o1777)
    t.file("bin/tool", b"#!/bin/sh\nexit 0\n", mode=0o755)
    t.file("etc/passwd", b"root:x:0:0::/:/bin/sh\n").file("etc/empty", b"")
    t.file("usr/lib/big", bytes(range(256)) * 1000, mtime=T0 + 7)
    t.file("usr/lib/one-block", b"x" * 512).file("usr/lib/one-more", b"y" * 513)
    t.symlink("lib", "usr/lib").symlink("etc/dangling", "/does/not/exist").hardlink("bin/tool2", "bin/tool")
    return t


@image()
def plain():
    return [base()]


@image()
def whiteouts():
    a = Tar()
    for d in ("keep", "gone", "gone/deep", "opaque", "opaque/old", "late", "none"):
        a.dir(d)
    for f in ("keep/a", "keep/b", "gone/x", "gone/deep/y", "opaque/1", "opaque/old/2", "late/1", "none/1", "top",
              "again2"):
        a.file(f, f.encode())
    b = Tar()
    b.whiteout("keep/a").whiteout("gone").whiteout("not-there").whiteout("keep/nor-there").whiteout("top")
    b.dir("opaque").opaque("opaque").file("opaque/new", b"n")
    b.dir("late").file("late/first", b"f").opaque("late")       # opaque after siblings
    b.opaque("none")                                            # no entry for the directory itself
    b.whiteout("again2").file("again2", b"second")
    c = Tar().whiteout("keep/b")                                # nothing but a whiteout
    return [a, b, c]


@image(differs=["containerd", "podman"], expect={"both/lower": None, "both/upper": {"size": 1}})
def whiteout_then_dir():
    # The whiteout hides the lower directory, also when the layer makes another of that name. In the
    # runtimes a plain directory takes the place of the whiteout's device, and the lower one shows.
    return [Tar().dir("both").file("both/lower", b"l"), Tar().whiteout("both").dir("both").file("both/upper", b"u")]


@image(refused=["containerd", "podman"], expect={"again": {"size": 6}, "d": {"mode": "0o700"}, "d/lower": None})
def whiteout_order():
    # A whiteout hides lower layers only, also when it comes after the entry of its own layer.
    return [Tar().file("again", b"1").dir("d").file("d/lower", b"l"),
            Tar().file("again", b"second").whiteout("again").dir("d", mode=0o700).file("d/upper", b"u").whiteout("d")]


@image(expect={".wh..wh.plnk": None, ".wh..wh.plnk/1.2": None, ".wh..wh.aufs": None, "d/.wh..wh.orph": None,
               "d/.wh.orph": None, "d/file": {"size": 1}}, differs=["containerd", "podman"])
def aufs():
    # Book-keeping of aufs is never visible. The runtimes differ in what they make of it.
    return [Tar().dir("d").file("d/file", b"1").file(".wh..wh.aufs").dir(".wh..wh.plnk").file(".wh..wh.plnk/1.2")
            .dir("d/.wh..wh.orph")]


@image()
def replace():
    a = Tar().dir("usr").dir("usr/lib").file("usr/lib/old", b"o").symlink("lib", "usr/lib")
    a.dir("dir-to-file").file("dir-to-file/x", b"x").file("file-to-dir", b"f").dir("dir-to-link").file("dir-to-link/y")
    a.symlink("link-to-dir", "usr").symlink("link-to-file", "usr").file("file-to-link", b"z").file("file-to-fifo", b"")
    a.dir("attributes", mode=0o700, uid=5, gid=6).file("attributes/kept", b"k").file("data", b"short")
    b = Tar().dir("lib").file("lib/x", b"x")
    b.file("dir-to-file", b"now a file").dir("file-to-dir").file("file-to-dir/z", b"z")
    b.symlink("dir-to-link", "usr").dir("link-to-dir").file("link-to-dir/in", b"i").file("link-to-file", b"f")
    b.symlink("file-to-link", "data").add("file-to-fifo", "6").dir("attributes", mode=0o2750, uid=7, gid=8)
    b.file("data", b"much longer than before")
    return [a, b]


@image(refused=["podman"], differs=["containerd"], expect={"back/gone": None, "back/new": {"size": 1}})
def replaced_twice():
    # A directory made a file and a directory again by one layer (which the specification forbids):
    # the file took away what lower layers have. In containerd it comes back.
    return [Tar().dir("back").file("back/gone", b"g"),
            Tar().file("back", b"in between").dir("back").file("back/new", b"n")]


@image()
def lib_over_link():
    # The entry's parent is a symbolic link of a lower layer: the runtimes make a real directory.
    return [Tar().dir("usr").dir("usr/lib").file("usr/lib/old", b"o").symlink("lib", "usr/lib"),
            Tar().file("lib/x", b"x")]


@image()
def hardlinks():
    a = Tar().dir("d").file("d/one", b"shared bytes", mode=0o640, uid=3).hardlink("d/two", "d/one")
    a.hardlink("three", "d/two").hardlink("./four", "./d/one").hardlink("five", "/d/one")
    a.symlink("soft", "d/one").hardlink("soft2", "soft")
    a.add("dev", "3", dev=(1, 3)).hardlink("dev2", "dev").add("pipe", "6").hardlink("pipe2", "pipe")
    a.file("hidden", b"h").hardlink("seen", "hidden").file("both", b"b").hardlink("both2", "both")
    b = Tar().whiteout("hidden").file("both2", b"replaced").file("m", b"m").hardlink("n", "m")
    return [a, b]


@image(expect={"link": {"size": 5, "nlink": 2}, "after": {"size": 2}})
def hardlink_size():
    # Written by tools that put the size of the target into the link's header, but no bytes.
    return [Tar().file("target", b"12345", fmt="gnu").hardlink("link", "target", size=5, fmt="gnu").file("after", b"ok", fmt="gnu")]


def capability(bit):
    return {"security.capability": struct.pack("<IIIII", 0x02000001, 1 << bit, 0, 0, 0)}


@image()
def hardlink_attributes():
    # The entry of a hard link is applied like any other: to the file behind all of its names.
    t, old = Tar(), {"mode": 0o640, "uid": 3, "gid": 4, "mtime": T0 + 1}
    t.dir("d").symlink("way", "d")
    t.file("d/file", b"f", **old).hardlink("two", "./d/file", mode=0o4751, uid=7, gid=8, mtime="1600000100.5")
    t.file("chain", b"c", **old).hardlink("chain2", "chain", mode=0o600, uid=9).hardlink("chain3", "chain2", mode=0o444, mtime=5)
    t.file("absolute", b"a", **old).hardlink("absolute2", "/absolute", mode=0o604, gid=9, mtime=T0 + 77)
    t.file("d/way", b"w", **old).hardlink("way2", "way/way", mode=0o640, uid=19, mtime=T0 + 78)
    t.symlink("soft", "d/file", uid=1).hardlink("soft2", "soft", mode=0o600, uid=5, gid=6)
    t.add("pipe", "6", **old).hardlink("pipe2", "pipe", mode=0o622, uid=5, mtime=T0 + 9)
    t.add("null", "3", dev=(1, 3), **old).hardlink("null2", "null", mode=0o666, mtime=T0 + 9)
    t.file("typed", b"t").hardlink("typed2", "typed", mode=0o120600)  # type bits in the mode field
    t.file("xattrs", b"x", xattrs={"user.a": b"1", "user.b": b"2"})
    t.hardlink("xattrs2", "xattrs", xattrs={"user.b": b"3", "user.c": b"4"})
    for name, owner, given in (("owner", {"uid": 5}, None), ("group", {"gid": 5}, None), ("again", {"uid": 5}, capability(12))):
        t.file(name, b"x", mode=0o755, xattrs=capability(10)).hardlink(name + "2", name, mode=0o755, xattrs=given, **owner)
    t.file("back", b"b", xattrs=capability(10)).hardlink("back2", "back", uid=5).hardlink("back3", "back")
    t.file("first", b"f").hardlink("first2", "first", xattrs=capability(12))
    # The target's name is given away before, or belongs to a lower layer as well.
    u = Tar().file("two", b"n", **old).hardlink("d/again", "two", mode=0o700)
    return [t, u]


@image(differs=["podman"], expect={n: {"mtime_ns": (T0 + 9) * 10 ** 9, "uid": 5} for n in ("soft", "soft2")})
def hardlink_time():
    # Podman leaves the time of a symbolic link alone when it makes another name of it.
    return [Tar().symlink("soft", "x", mtime=T0 + 3).hardlink("soft2", "soft", uid=5, mtime=T0 + 9)]


@image(differs=["containerd"], expect={n: {"xattrs": {k: v.hex() for k, v in capability(10).items()}} for n in ("ping", "ping2")})
def hardlink_capability():
    # containerd calls chown for each entry, which drops the capability even where the owner stays.
    return [Tar().file("ping", b"ping", mode=0o755, xattrs=capability(10)).hardlink("ping2", "ping", mode=0o755)]


@image()
def xattrs():
    rooted = struct.pack("<IIIIII", 0x03000001, 1 << 12, 0, 0, 0, 1000)
    t = Tar().file("ping", b"ping", mode=0o755, xattrs=capability(10))
    t.file("rooted", b"r", mode=0o755, xattrs={"security.capability": rooted}, uid=9)
    t.file("user", b"u", xattrs={"user.name": b"value", "user.binary": b"a\0b\nc\xff", "user.empty": b""})
    t.dir("d", xattrs={"user.on.dir": b"1"}).file("d/f", b"f")
    t.file("many", b"m", xattrs={f"user.key{i:02}": b"v" * i for i in range(1, 30)})
    t.file("long", b"l", xattrs={"user.long": b"q" * 2000})
    u = Tar().dir("d", xattrs={"user.other": b"2"}).file("user", b"u2")
    return [t, u]


@image(differs=["containerd"], expect={n: {"xattrs": {"trusted.thing": b"yes".hex()}} for n in ("d", "d/t", "link")})
def trusted_xattrs():
    # containerd leaves them out.
    thing = {"trusted.thing": b"yes"}
    return [Tar().dir("d", xattrs=thing).file("d/t", b"t", xattrs=thing).symlink("link", "d", xattrs=thing)]


@image(name="no-xattrs")
def no_xattrs():
    return [Tar().file("a", b"a").dir("b")]


@image()
def special():
    t = Tar().dir("dev").add("dev/null", "3", mode=0o666, dev=(1, 3)).add("dev/sda", "4", mode=0o660, gid=6, dev=(8, 0))
    t.add("dev/big", "3", dev=(511, 70000)).add("dev/fifo", "6", mode=0o600)
    for mode in (0, 0o1, 0o4755, 0o2755, 0o6711, 0o1777, 0o7777, 0o400):
        t.file(f"mode{mode:o}", b"", mode=mode).dir(f"dir{mode:o}", mode=mode)
    t.file("typed", b"x", mode=0o100644)  # type bits in the mode field
    return [t]


@image()
def times():
    t = Tar()
    for name, value in (("ns", "1600000000.123456789"), ("tenth", "1600000000.1"), ("zero", 0), ("late", 2 ** 32 + 5),
                        ("tiny", "0.000000001"), ("octal-limit", 8 ** 11 - 1)):
        t.file(name, name.encode(), mtime=value).dir("d-" + name, mtime=value).symlink("l-" + name, "x", mtime=value)
    return [t]


NEGATIVE = {"old": ("-1", -10 ** 9), "older": ("-86400", -86400 * 10 ** 9), "half": ("-0.5", -5 * 10 ** 8),
            "more": ("-1.5", -15 * 10 ** 8), "nano": ("-0.000000001", -1)}


@image(differs=["containerd", "podman"],
       expect={kind + name: {"mtime_ns": ns} for name, (_, ns) in NEGATIVE.items() for kind in ("", "d-", "l-", "h-")})
def negative_times():
    # containerd makes all times before 1970 zero, podman those of everything but symbolic links.
    t = Tar()
    for name, (value, _) in NEGATIVE.items():
        t.file(name, mtime=5).dir("d-" + name, mtime=value).symlink("l-" + name, "x", mtime=value)
        t.hardlink("h-" + name, name, mtime=value)
    return [t]


@image()
def owners():
    t = Tar()
    for i, (uid, gid) in enumerate(((0, 0), (1000, 1000), (65534, 65534), (65536, 70000), (2097151, 2097151),
                                    (2097152, 4), (2 ** 31 - 1, 2 ** 31 - 1), (4294967293, 4000000000))):
        t.file(f"base256-{i}", b"", uid=uid, gid=gid, base256=uid > 2000000, fmt="gnu").dir(f"dir-{i}", uid=uid, gid=gid)
        if uid < 2 ** 31:
            t.file(f"pax-{i}", b"", pax={"uid": str(uid), "gid": str(gid)})
    t.file("named", b"", pax={"uname": "nobody-at-all", "gname": "none"}, uid=12, gid=13)
    return [t]


@image()
def names():
    t = Tar()
    long = "long/" + "/".join(["a" * 60] * 3)
    t.file(long + "/pax", b"1").file("g/" + "b" * 150 + "/gnu", b"2", fmt="gnu")
    t.symlink("longlink", "x/" * 100 + "y").symlink("longlink-gnu", "z/" * 100 + "y", fmt="gnu")
    t.file("ustar-name", b"3", fmt="ustar", prefix=b"prefix/" + b"p" * 100)
    t.file("c" * 255, b"4").dir("d" * 255).file("d" * 255 + "/" + "e" * 255, b"5")
    t.file("deep/" + "s/" * 900 + "end", b"6")
    t.file(b"latin1-\xe9", b"7", fmt="ustar").file("utf8-é世界", b"8", pax={"path": "utf8-é世界"}).file(b"raw-\xff\xfe", b"9", fmt="gnu")
    t.file("new\nline", b"10").file("back\\slash", b"11").file("sp ace ", b"12").file("tab\t", b"13").file("*?[", b"14")
    t.file("./dot/file", b"15").file("/absolute", b"16").file("dot//double///slash", b"17").file("dot/./inner", b"18")
    t.file("dot/x/../up", b"19").dir("trailing///").file("..dots", b"20").file("...", b"21").file("-dash", b"22")
    t.symlink("empty-ish", ".").symlink("abs", "/").symlink("selfish", "selfish")
    t.hardlink("linked-long", long + "/pax")
    return [t]


SPARSE = {"pax-0.0": "0.0", "pax-0.1": "0.1", "pax-1.0": "1.0"}
ODD = (300000, [(4096, b"p" * 4096), (200000, b"odd bytes"), (299999, b"E")])
EVEN = (262144, [(512, b"q" * 512), (131072, b"r" * 2048), (262144, b"")])
GNU = {"gnu": (1 << 20, [(0, b"a" * 512), (65536, b"b" * 1024), (1 << 20, b"")]),
       "gnu-many": (1 << 20, [(i * 8192, b"%c" % (97 + i % 26) * 512) for i in range(60)] + [(1 << 20, b"")]),
       "gnu-odd": (100001, [(1000, b"abc" * 7), (50000, b"z" * 700), (99999, b"!!")]),
       "gnu-hole": (123456, [(123456, b"")])}


def expanded(size, segments):
    data = bytearray(size)
    for offset, part in segments:
        data[offset:offset + len(part)] = part
    return bytes(data)


@image(same_as="sparse-expanded")
def sparse():
    t = Tar()
    for name, version in SPARSE.items():
        t.sparse_pax(name, *ODD, version).sparse_pax("even-" + name, *EVEN, version)
    return [t.file("after", b"still in step")]


@image()
def sparse_expanded():
    t = Tar()
    for name in SPARSE:
        t.file(name, expanded(*ODD)).file("even-" + name, expanded(*EVEN))
    return [t.file("after", b"still in step")]


@image(refused=["containerd", "podman"], same_as="sparse-gnu-expanded")
def sparse_gnu():
    t = Tar()
    for name, content in GNU.items():
        t.sparse_gnu(name, *content)
    return [t.file("after", b"still in step")]


@image()
def sparse_gnu_expanded():
    t = Tar()
    for name, content in GNU.items():
        t.file(name, expanded(*content))
    return [t.file("after", b"still in step")]


@image()
def formats():
    t = Tar()
    t.file("v7", b"v7", fmt="v7").add("v7dir/", "5", fmt="v7").file("ustar", b"u", fmt="ustar").file("gnu", b"g", fmt="gnu")
    t.add("nul-type", b"\0", data=b"nul")
    body = Tar.records([("comment", "global"), ("SCHILY.xattr.user.global", "no")])
    t.header(b"pax_global_header", b"g", size=len(body))
    t.block(body)
    t.file("after-global", b"a").file("size-in-pax", b"sized", pax={"size": "5"}, size=5)
    garbage = Layer(t.bytes() + b"\0" * 4096 + b"trailing bytes belong to the DiffID".ljust(1024, b"."))
    no_end = Layer(Tar().file("unterminated", b"u").bytes(end=False))
    return [garbage, no_end]


@image(refused=["containerd", "podman"], expect={"contiguous": {"size": 5}, "after": {"size": 1}})
def contiguous():
    return [Tar().add("contiguous", "7", data=b"seven").file("after", b"a")]


@image()
def empty():
    a3ed = b"\x1f\x8b\x08\x00\x00\x09\x6e\x88\x00\xff\x62\x18\x05\xa3\x60\x14\x8c\x58\x00\x08\x00\x00\xff\xff\x2e\xaf\xb5\xef\x00\x04\x00\x00"
    nothing = Layer(b"\0" * 1024, blob=a3ed)
    return [nothing, Tar().file("a", b"a").file("b", b"b"), nothing, Tar().whiteout("a"), nothing]


@image()
def only_empty():
    return [Layer(b"\0" * 1024)]


@image(refused=["podman"])
def duplicates():
    t = Tar().file("twice", b"first").file("twice", b"second and longer", mode=0o600)
    t.file("f-then-d", b"x").dir("f-then-d").file("f-then-d/in", b"i").dir("d").file("d/kept", b"k").dir("d", mode=0o700)
    t.file("target", b"before").hardlink("bound", "target").file("target", b"after")
    t.symlink("s", "a").symlink("s", "b")
    return [t]


@image(differs=["podman"], expect={"given": {"mode": "0o751", "uid": 11, "gid": 12}, "given/inner": {"mode": "0o700", "uid": 13}})
def implied():
    # Podman resets the attributes of implied directories.
    a = Tar().file("no/parent/here", b"x").dir("given", mode=0o751, uid=11, gid=12, mtime=T0 + 5)
    a.dir("given/inner", mode=0o700, uid=13).file("given/inner/f", b"f")
    b = Tar().file("given/inner/g", b"g").file("given/fresh/h", b"h").whiteout("given/nothing")
    return [a, b]


@image()
def root_entry():
    return [Tar().dir("./", mode=0o700, uid=77, mtime=T0 + 99).file("./a", b"a"), Tar().dir("/", mode=0o711).file("b", b"b")]


@image()
def inner_symlinks():
    # Within one layer an entry may go through a symbolic link; it never leaves the root.
    t = Tar().dir("real").symlink("rel", "real").symlink("abs", "/real").symlink("up", "../../../../real")
    t.file("rel/a", b"a").file("abs/b", b"b").file("up/c", b"c")
    return [t]


@image(same_as="plain")
def mislabelled():
    return [Layer(base(), LAYER_ZSTD, blob=gzipped(base().bytes()))]


@image(same_as="plain")
def zstd_as_gzip():
    return [Layer(base(), LAYER_GZIP, blob=zstded(base().bytes()))]


@image(same_as="plain")
def tar_as_gzip():
    return [Layer(base(), LAYER_GZIP, blob=base().bytes())]


@image(same_as="plain")
def gzip_as_tar():
    return [Layer(base(), LAYER, blob=gzipped(base().bytes()))]


@image(same_as="plain")
def uncompressed():
    return [Layer(base(), LAYER)]


@image(same_as="plain")
def zstd():
    return [Layer(base(), LAYER_ZSTD)]


@image(same_as="plain", refused=["podman"])
def zstd_frames():
    raw = base().bytes()
    skippable = struct.pack("<II", 0x184D2A53, 11) + b"hello frame"
    return [Layer(base(), LAYER_ZSTD, blob=skippable + zstded(raw[:7000]) + skippable + zstded(raw[7000:]) + skippable)]


@image(same_as="plain")
def gzip_members():
    raw = base().bytes()
    cut = [0, 1, 600, 5000, 5000, len(raw)]
    return [Layer(base(), blob=b"".join(gzipped(raw[a:b]) for a, b in zip(cut, cut[1:])))]


@image(same_as="plain", refused=["podman"])
def gzip_padded():
    return [Layer(base(), blob=gzipped(base().bytes()) + b"\0" * 1000)]


@image(same_as="plain")
def gzip_fields():
    raw = base().bytes()
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    body = deflate.compress(raw) + deflate.flush()
    head = b"\x1f\x8b\x08\x1c" + b"\0" * 6 + struct.pack("<H", 4) + b"AB\0\0" + b"name.tar\0" + b"comment\0"
    return [Layer(base(), blob=head + body + struct.pack("<II", zlib.crc32(raw), len(raw) & 0xffffffff))]


@image(same_as="plain")
def gzip_stored():
    return [Layer(base(), blob=gzipped(base().bytes(), 0))]


@image()
def same_diff():
    a = Tar().file("f", b"one")
    return [a, Tar().whiteout("f").file("g", b"g"), a, Tar().whiteout("g")]


@image()
def many_layers():
    layers = [Tar().dir("d").file("d/common", b"0").file("first", b"1")]
    for i in range(1, 100):
        layers.append(Tar().file(f"d/f{i}", b"%d" % i).file("d/common", b"%d" % i))
    return layers


@image()
def many_files():
    t = Tar().dir("flat")
    for i in range(20000):
        t.file(f"flat/{i:05}", b"%d" % i if i % 7 == 0 else b"")
    return [t, Tar().whiteout("flat/00007").file("flat/zzz", b"z")]


@image()
def big_file():
    rng = random.Random(4)
    random_part = rng.randbytes(12 << 20)
    t = Tar().file("random", random_part).file("zeros", b"\0" * (6 << 20)).file("text", b"all work and no play\n" * 200000)
    return [t, Tar().file("random2", rng.randbytes((9 << 20) + 77))]


@image(docker=True, same_as="plain")
def docker_schema2():
    return [base()]


def write_platforms(path, nested, docker):
    layout = Layout(path)

    def one(arch, variant=""):
        return layout.image([Layer(base()), Layer(Tar().file("arch", (arch + variant).encode()))], ("linux", arch, variant), docker)
    wrong = layout.image([Layer(Tar().file("wrong", b""))], ("windows", "amd64", ""), docker)
    wrong["platform"]["os.version"] = "10.0.1"
    unknown = layout.image([Layer(Tar().file("attestation", b""))], docker=docker)
    unknown["platform"] = {"os": "unknown", "architecture": "unknown"}
    entries = [unknown, wrong, one("arm", "v6"), one("arm", "v7"), one("arm64", "v8"), one("amd64"), one("s390x")]
    if nested:
        entries = [layout.index(entries[:3]), layout.index(entries[3:])]
    layout.tag(layout.index(entries, docker))


def loose(layers):
    """Directories that are only implied in the topmost layer with an entry below them."""
    result = {}
    for layer in layers:
        explicit = {n for n, kind in layer.names if kind == b"5"}
        touched = set()
        for name, _ in layer.names:
            while name := os.path.dirname(name):
                touched.add(name)
        for name in touched | explicit:
            result[name] = name not in explicit
    return sorted(os.fsdecode(n) for n, implied_only in result.items() if implied_only)


def write(directory, name):
    path = f"{directory}/{name}"
    if name.startswith("platforms"):
        write_platforms(path, name == "platforms-nested", name == "platforms-docker")
        meta = {"refused": ["containerd", "podman"] if "nested" in name else []}
    else:
        function, meta = IMAGES[name]
        meta = dict(meta)
        layers = [l if isinstance(l, Layer) else Layer(l) for l in function()]
        simple_image(path, layers, docker=meta.pop("docker", False))
        meta["loose"] = loose(layers)
    with open(path + ".json", "w") as f:
        json.dump(meta, f)


NAMES = list(IMAGES) + ["platforms", "platforms-nested", "platforms-docker"]


def main(args):
    if args == ["--list"]:
        print("\n".join(NAMES))
        return
    for name in args[1:] or NAMES:
        write(args[0], name)


if __name__ == "__main__":
    main(sys.argv[1:])
