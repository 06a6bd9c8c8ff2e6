#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""The odd tars: layers that no well-behaved tool writes, made systematically, class by class.

odd_tars.py DIR [NAME...] writes each case as an OCI layout DIR/NAME (tag "latest"); --list prints the names.
compare_peers.py shows each to containerd, podman, umoci and imagefs. What KNOWN says about a case is what these
must differ in from imagefs, and nothing else: for each runtime "refuses", or {path: fields}, where fields are
those of lib/tree.py, "missing" (imagefs shows it and they do not) or "extra"; "spared" is not shown the case.
A case whose name begins with "bad-" is refused by imagefs.
"""
import itertools
import os
import random
import struct
import subprocess
import sys
import zlib

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
from oci import *  # noqa: E402,F403

CASES, KNOWN = {}, {}


def case(name, *layers, **known):
    """layers: Tar or Layer, or a function that gives the list; known: what the runtimes make of it otherwise."""
    CASES[name] = layers
    KNOWN[name] = known


def refused(name, *layers, **known):
    case("bad-" + name, *layers, **known)


def everybody(value):
    return dict.fromkeys(("containerd", "podman", "umoci"), value)


def shown_by(paths, *runtimes):
    """They show what imagefs hides."""
    return {runtime: dict.fromkeys(paths.split(), "extra") for runtime in runtimes}


def many(add, items):
    """An archive to which `add` has put each item."""
    t = Tar()
    for i, item in enumerate(items):
        add(t, i, item)
    return t


# ---- What stands before an entry: all sequences of up to three headers

def another_global(t, records):
    """Under a name of its own: podman takes no name twice in one archive."""
    t.globals = getattr(t, "globals", 0) + 1
    return t.pax(records, "g", name=f"global/{t.globals}")


BEFORE = {
    "x": lambda t, n: t.pax([("path", n + "-pax")]),
    "t": lambda t, n: t.pax([("mtime", "5.25"), ("uid", "7")]),
    "e": lambda t, n: t.pax([("path", ""), ("gid", "9")]),
    "l": lambda t, n: t.gnu_long(n + "-long"),
    "n": lambda t, n: t.gnu_long(""),
    "g": lambda t, n: another_global(t, [("mtime", "77"), ("uid", "78"), ("comment", "c")]),
}
BEFORE_LINK = {
    "x": lambda t, n: t.pax([("linkpath", "to-pax")]),
    "y": lambda t, n: t.pax([("linkpath", "to-other"), ("path", n + "-pax")]),
    "k": lambda t, n: t.gnu_long("to-long", "K"),
    "n": lambda t, n: t.gnu_long("", "K"),
    "g": lambda t, n: another_global(t, [("linkpath", "to-global")]),
}
BEFORE_XATTR = {
    "a": lambda t, n: t.pax([("SCHILY.xattr.user.a", "1")]),
    "b": lambda t, n: t.pax([("SCHILY.xattr.user.b", "2"), ("SCHILY.xattr.user.a", "3")]),
    "c": lambda t, n: t.pax([("SCHILY.xattr.user.a", "4"), ("SCHILY.xattr.user.a", "5")]),
    "g": lambda t, n: another_global(t, [("SCHILY.xattr.user.global", "no")]),
    "l": lambda t, n: t.gnu_long(n + "-long"),
}


def sequences(alphabet, entry, start=None):
    t = start or Tar()
    t.dir("s")
    for length in (1, 2, 3):
        for word in itertools.product(sorted(alphabet), repeat=length):
            name = "s/" + "".join(word)
            for letter in word:
                alphabet[letter](t, name)
            entry(t, name)
    return t.file("last", b"nothing was left over")


def without_global(alphabet):
    return {k: v for k, v in alphabet.items() if k != "g"}


TARGETS = ("to-header", "to-pax", "to-other", "to-long")
for suffix, keep in (("", without_global), ("-global", dict)):
    known = {"umoci": "refuses"} if suffix else {}  # it knows no global headers
    case("headers-file" + suffix, sequences(keep(BEFORE), lambda t, n: t.file(n, n.encode())), **known)
    case("headers-dir" + suffix, sequences(keep(BEFORE), lambda t, n: t.dir(n, mode=0o711)), **known)
    case("headers-device" + suffix, sequences(keep(BEFORE), lambda t, n: t.add(n, "3", dev=(5, 1))), **known)
    case("headers-link" + suffix, sequences(keep(BEFORE_LINK), lambda t, n: t.symlink(n, "to-header")), **known)
    case("headers-xattr" + suffix, sequences(keep(BEFORE_XATTR), lambda t, n: t.file(n, b"")), **known)
    case("headers-hard" + suffix, sequences(keep(BEFORE_LINK), lambda t, n: t.hardlink(n, "to-header"),
                                            many(lambda t, i, n: t.file(n, n.encode()), TARGETS)), **known)
case("global-name", Tar().dir("d").file("d/f", b"1").file("f", b"1")
     .pax([("comment", "c")], "g", name="f").file("after", b"a").pax([("path", "d/f")], "g").file("end", b"e"),
     podman="refuses", umoci="refuses")  # names twice; global headers
case("global-whiteout", Tar().file("f", b"1").file("k", b"1").dir("d").file("d/low", b"l"),
     Tar().pax([("comment", "c")], "g", name=".wh.f").dir("d").pax([("path", "d/.wh..wh..opq")], "g").file("z", b"z"))
case("global-parents", Tar().pax([("comment", "c")], "g", name="made/by/global").file("z", b"z"), umoci="refuses")
case("global-usual", Tar().pax([("comment", "0" * 40)], "g", name="pax_global_header").file("z", b"z"), umoci="refuses")
case("pending-at-end", Tar().file("f", b"1").pax([("path", "never")]).gnu_long("never"))

# ---- What a record says

VALUES = [
    [("mtime", "+5")], [("mtime", "005.5")], [("mtime", "3.")], [("mtime", "3.1234567891")], [("uid", "+3"), ("gid", "007")],
    [("uid", "1"), ("uid", "2")], [("uid", "1"), ("uid", "")], [("path", "")], [("size", "")], [("mtime", "")],
    [("uid", "-1"), ("gid", "-1")], [("uname", "root"), ("gname", "")], [("atime", "1.5"), ("ctime", "-3.25")],
    [("atime", ""), ("ctime", "")], [("unknown.key", "a=b=c")], [("comment", "\0nul in a comment")],
    [("hdrcharset", "BINARY")], [("SCHILY.dev", "x"), ("SCHILY.ino", "-")], [("LIBARCHIVE.xattr.user.x", "eA==")],
    [("LIBARCHIVE.creationtime", "abc")], [("SCHILY.fflags", "nodump")], [("SCHILY.xattr.user.a=b", "x")],
    [("SCHILY.xattr.user.empty", "")], [("SCHILY.xattr.user.nul", "a\0b")], [("SCHILY.xattr.user.twice", "1"), ("SCHILY.xattr.user.twice", "2")],
    [("GNU.sparse.name", "not-sparse")], [("GNU.sparse.size", "9")], [("GNU.sparse.major", "2"), ("GNU.sparse.minor", "0"), ("GNU.sparse.name", "no")],
    [("GNU.sparse.major", "1")], [("GNU.sparse.minor", "0"), ("GNU.sparse.map", "0,1")], [("GNU.sparse.map", "")],
    [("GNU.sparse.numblocks", "x")], [("GNU.sparse.realsize", "-5")],
]
case("pax-values", many(lambda t, i, v: t.pax(v).file(f"v{i}", b"%d" % i), VALUES),
     podman={"v22": ["xattrs"]}, umoci={"v22": ["xattrs"]})  # they leave out an empty one
case("pax-length-forms", Tar().pax(b"+16 path=signed\n").file("a", b"").pax(b"0017 path=zeros2\n").file("b", b"").pax(b"").file("c", b""))
for name, records in {
    "size-word": [("size", "abc")], "size-negative": [("size", "-1")], "size-huge": [("size", "9223372036854775808")],
    "uid-word": [("uid", "root")], "gid-blank": [("gid", " 1")], "mtime-word": [("mtime", "now")], "mtime-dot": [("mtime", ".5")],
    "mtime-fraction": [("mtime", "1.-5")], "atime-word": [("atime", "x")], "ctime-hex": [("ctime", "0x10")],
    "uname-nul": [("uname", "a\0b")], "gname-nul": [("gname", "\0")], "path-nul": [("path", "a\0b")], "linkpath-nul": [("linkpath", "a\0")],
    "key-nul": [("a\0b", "x")], "key-empty": [("", "x")], "xattr-unnamed": [("SCHILY.xattr.", "x")],
    "sparse-order": [("GNU.sparse.numbytes", "1"), ("GNU.sparse.offset", "0")], "sparse-comma": [("GNU.sparse.offset", "0,1")],
    "sparse-count": [("GNU.sparse.major", "0"), ("GNU.sparse.minor", "1"), ("GNU.sparse.map", "0,1"), ("GNU.sparse.size", "1")],
    "sparse-odd": [("GNU.sparse.map", "0,1,2"), ("GNU.sparse.numblocks", "1"), ("GNU.sparse.size", "4")],
    "sparse-size": [("GNU.sparse.map", "0,1"), ("GNU.sparse.numblocks", "1"), ("GNU.sparse.size", "x")],
    "sparse-beyond": [("GNU.sparse.map", "5,1"), ("GNU.sparse.numblocks", "1"), ("GNU.sparse.size", "4")],
    "sparse-rest": [("GNU.sparse.map", ""), ("GNU.sparse.major", "0"), ("GNU.sparse.minor", "1"), ("GNU.sparse.numblocks", "0"), ("GNU.sparse.size", "4")],
}.items():
    refused("pax-" + name, Tar().pax(records).file("f", b"1"), **everybody("refuses"))
for name, raw in {"no-newline": b"9 path=ab", "too-long": b"99 path=a\n", "no-length": b"path=a\n", "no-equals": b"9 patha1\n",
                  "negative": b"-9 path=a\n", "trailing": b"10 path=a\n\0"}.items():
    refused("record-" + name, Tar().pax(raw).file("f", b"1"), **everybody("refuses"))
    refused("global-" + name, Tar().pax(raw, "g").file("f", b"1"), **everybody("refuses"))

# ---- Names

ROOTED = ["/up/..", "/../f1", "/a/../../f2", "/../../d/f3", "//f4", "/./f5", "/d//f6", "/d/./f7", "/d/../f8", "/..//../f9", "///../x/../f10"]
INSIDE = ["f1", "./f2", "d/../f3", "d/./f4", "d//f5", "././f6", "d/e/../../f7", "x/../d/f8"]
case("names-file", many(lambda t, i, n: t.file(n, n.encode()), ROOTED[1:]))
case("names-relative", many(lambda t, i, n: t.file(n, n.encode()), INSIDE))
case("names-dir", many(lambda t, i, n: t.dir(n + "/", mode=0o700), ROOTED))
case("names-link", many(lambda t, i, n: t.symlink(n, n), ROOTED[1:]))
case("names-pax", many(lambda t, i, n: t.file("x", n.encode(), pax={"path": n}), ROOTED[1:]))
case("names-gnu", many(lambda t, i, n: t.gnu_long(n).file("x", n.encode(), fmt="gnu"), ROOTED[1:]))
case("names-hard", Tar().file("f1", b"1").dir("d").file("d/f3", b"3"),
     many(lambda t, i, n: t.hardlink(f"h{i}", n) if i else t.file("f1", b"11").dir("d").file("d/f3", b"33"),
          ["", "/../f1", "/a/../../f1", "//f1", "./f1", "/d/../f1", "/../../d/f3", "d/./f3", "/d//f3"]))
case("names-whiteout", Tar().file("a", b"1").dir("d").file("d/b", b"2").file("keep", b"3"),
     Tar().file("/../.wh.a").file("/x/../../d/.wh.b"))
case("names-through-links", Tar().dir("real").symlink("abs", "/../../real").symlink("up", "../../real").file("abs/f", b"1").file("/../up/g", b"2")
     .hardlink("h", "abs/f").hardlink("i", "/../up/../real/g"))
case("names-slash-file", Tar().file("f/", b"a file whose name ends with a slash").file("v/", b"", fmt="v7"))
for i, name in enumerate(("../f", "a/../../f", "./../f")):
    refused(f"name-{i}", Tar().file(name, b"1"))
refused("name-3", Tar().file("..", b"1"), podman="refuses", umoci="refuses")
refused("hard-up", Tar().file("f", b"1").hardlink("h", "../f"))

# ---- Numbers in headers

NUMBERS = {"spaces": b" 644 \0\0", "nul-first": b"\0\000644\0", "no-end": b"00000644", "two": b"644\0 777", "blank": b"        ", "empty": b"\0" * 8,
           "type-bits": b"0100644\0", "dir-bits": b"040755\0\0", "base256": b"\x80\0\0\0\0\0\1\xa4"}
case("numbers-mode", many(lambda t, i, n: t.file(n, b"x", patch={100: NUMBERS[n]}), NUMBERS))
case("numbers-base256", Tar().file("size", b"12345", patch={124: b"\x80" + b"\0" * 10 + b"\5"}).file("uid", b"", patch={108: b"\x80\0\0\0\0\1\0\0"})
     .file("time", b"", patch={136: b"\x80" + b"\0" * 7 + struct.pack(">I", T0)})
     .file("gid", b"", patch={116: b"\x80\0\0\0\xee\x6b\x28\0"}))
case("numbers-dir-size", Tar().dir("d", size=512).dir("e", patch={124: b"\xff" * 12}).file("after", b"a"))
case("numbers-v7-device", Tar().file("f", b"1"), Tar().add("f", "3", fmt="v7", patch={329: b"0000005\0" b"0000001\0"}).file("g", b"g"),
     umoci={"f": "extra"})  # a device 0:0 is what overlayfs takes for a whiteout
for name, patch in {"mode": {100: b"64x4\0\0\0\0"}, "uid": {108: b"8\0\0\0\0\0\0\0"}, "size": {124: b"-1\0\0\0\0\0\0\0\0\0\0"}, "mtime": {136: b"x" * 12},
                    "devmajor": {329: b"z\0\0\0\0\0\0\0"}, "size-256": {124: b"\xff" * 12}, "size-over": {124: b"\x80\xff" + b"\xff" * 10}}.items():
    refused("number-" + name, Tar().file("f", b"1", patch=patch), **everybody("refuses"))
refused("number-in-pax-header", many(lambda t, i, p: t.header(b"x", b"x", patch=p), [{108: b"q" * 8}]).file("f", b""), **everybody("refuses"))
case("gnu-prefix", Tar().file("plain", b"1", fmt="gnu").file("a-time", b"1", fmt="gnu", patch={345: b"00000000001\0"})
     .file("go-prefix", b"1", fmt="gnu", patch={345: b"some/dir\0"}).file("not-ascii", b"1", fmt="gnu", patch={345: b"\xc3\xa9\xc3\xa9" + b"x" * 9})
     .file("second", b"1", fmt="gnu", patch={357: b"zz"}).file("nul-first", b"1", fmt="gnu", patch={346: b"abc"}))
case("star-prefix", Tar().file("s", b"1", prefix=b"pre", patch={508: b"tar\0"}).file("u", b"1", prefix=b"p" * 150))
refused("star-time", Tar().file("s", b"1", prefix=b"pre", patch={476: b"qqq", 508: b"tar\0"}), **everybody("refuses"))


def base256_checksum():
    block = Tar().file("f", b"1").bytes()
    total = sum(block[:148]) + 8 * ord(" ") + sum(block[156:512])
    return [Layer(block[:148] + b"\x80\0\0\0\0\0" + struct.pack(">H", total) + block[156:], LAYER)]


refused("checksum-256", base256_checksum, **everybody("refuses"))

# ---- Links with a size, kinds of entries

case("link-size", Tar().file("f", b"data").add("h", "1", link=b"f", size=4).add("s", "2", link=b"f", size=1000).file("after", b"a"))
case("nul-type", Tar().add("file", b"\0", data=b"1").add("dir/", b"\0").add("dir/f", b"\0", data=b"2").gnu_long("long/").add("x", b"\0"))
for kind in "8VMNDXZ":
    refused("kind-%d" % ord(kind), Tar().add("strange", kind, data=b"x").file("f", b""), **everybody("refuses"))
case("fifo-device-times", Tar().add("p", "6", mtime="7.5", mode=0o1600, uid=4).add("c", "3", dev=(1, 3), mtime="8.25").add("b", "4", dev=(7, 0), uid=5, gid=6))

# ---- Whiteouts

LOW = Tar().dir("d").file("d/a", b"1").file("d/b", b"2").dir("e").file("e/c", b"3").file("top", b"4").dir("keep").file("keep/k", b"5")
case("whiteout-kinds", LOW, Tar().dir("d/.wh.a").symlink(".wh.top", "x").add("e/.wh.c", "6").file("d/.wh.b", b"with data"))
case("whiteout-hard", LOW, Tar().file("f", b"1").hardlink(".wh.top", "f"))
case("opaque-kinds", LOW, Tar().dir("d").dir("d/.wh..wh..opq").symlink("e/.wh..wh..opq", "x").file("e/new", b"n"))
case("whiteout-of-whiteout", LOW, Tar().whiteout("top"), Tar().file("top", b"again"), Tar().whiteout("top").file("other", b"o"))
case("device-is-whiteout", LOW, Tar().add("top", "3", dev=(0, 0)).file("z", b"z"), umoci={"top": "extra"})
# overlayfs does not look at the root of a layer, so what should be hidden stays.
BELOW, OVERLAY = "d/a d/b e e/c keep keep/k top", ("containerd", "podman")
case("root-opaque", LOW, Tar().file(".wh..wh..opq").file("new", b"n"), **shown_by("d " + BELOW, *OVERLAY))
case("root-opaque-dot", LOW, Tar().file("./.wh..wh..opq").file("new", b"n"), **shown_by("d " + BELOW, *OVERLAY))
case("root-opaque-late", LOW, Tar().file("new", b"n").dir("d").file("d/own", b"o").file("/.wh..wh..opq"), **shown_by(BELOW, *OVERLAY))
case("root-opaque-middle", LOW, Tar().file(".wh..wh..opq").file("middle", b"m"), Tar().file("d/third", b"t"), **shown_by(BELOW, *OVERLAY))
for i, name in enumerate((".wh.", ".wh..", ".wh...")):
    # umoci takes the last one for its order to delete the folder that it works in.
    refused(f"whiteout-{i}", Tar().file(name), containerd="refuses", podman="refuses", umoci="spared")
refused("whiteout-inside", Tar().file(".wh.d/f", b"x"))

# ---- aufs

PLNK = ".wh..wh.plnk"


def plinks(hidden, links, **other):
    """They show the folder and count its names; in what else they differ is in `other`."""
    return {runtime: {PLNK: "extra", **{f"{PLNK}/{n}": "extra" for n in hidden.split()},
                      **{n: sorted(["links", "nlink", *other.get(runtime, [])]) for n in links.split()}}
            for runtime in ("containerd", "podman", "umoci")}


case("aufs-plink", Tar().dir("usr").dir(PLNK).file(PLNK + "/12.34", b"data", mode=0o755, uid=3, mtime=77)
     .hardlink("usr/a", PLNK + "/12.34").hardlink("usr/b", PLNK + "/12.34"), **plinks("12.34", "usr/a usr/b", umoci=["mode", "mtime_ns", "uid"]))  # for umoci the first entry has the last word
case("aufs-plink-forms", Tar().file(PLNK + "/1.1", b"one").hardlink("a", "/" + PLNK + "/1.1").hardlink("b", "./" + PLNK + "/1.1")
     .hardlink("c", "/../" + PLNK + "//1.1").symlink(PLNK + "/2.2", "target").hardlink("s", PLNK + "/2.2").file(PLNK + "/3.3", b"unused")
     .add(PLNK + "/4.4", "6").hardlink("p", PLNK + "/4.4"), **plinks("1.1 2.2 3.3 4.4", "a b c s p"))
case("aufs-plink-chain", Tar().file("a", b"1").hardlink(PLNK + "/1.1", "a").hardlink("b", PLNK + "/1.1")
     .hardlink(PLNK + "/2.2", PLNK + "/1.1").hardlink("c", PLNK + "/2.2"), **plinks("1.1 2.2", "a b c"))
case("aufs-others", Tar().dir("d").file(".wh..wh.aufs").dir(".wh..wh.orph").file(".wh..wh.orph/x", b"x").dir("d/.wh..wh.orph").file("d/f", b"1"),
     containerd={".wh..wh.orph": "extra", ".wh..wh.orph/x": "extra"},
     podman={".wh..wh.orph": "extra", ".wh..wh.orph/x": "extra", "d/.wh.orph": "extra"},
     umoci={".wh..wh.orph": "extra", ".wh..wh.orph/x": "extra"})
case("aufs-over", LOW, Tar().file(".wh..wh.aufs").dir(PLNK).file(PLNK + "/9.9", b"nine").hardlink("d/a", PLNK + "/9.9").whiteout("top"),
     **plinks("9.9", "d/a"))
refused("aufs-plink-later", Tar().hardlink("a", PLNK + "/1.1").file(PLNK + "/1.1", b"late"), **everybody("refuses"))
refused("aufs-plink-lower", Tar().file(PLNK + "/1.1", b"low").file("z", b"z"), Tar().hardlink("a", PLNK + "/1.1"), containerd="refuses", podman="refuses")

# ---- Sparse files

SEGMENTS = {"whole": (10, [(0, b"0123456789")]), "hole-first": (9000, [(8192, b"a" * 808)]), "hole-last": (9000, [(0, b"a" * 700), (9000, b"")]),
            "nothing": (5000, [(5000, b"")]), "no-segments": (5000, []), "empty": (0, []), "touching": (2000, [(0, b"a" * 500), (500, b"b" * 500), (1000, b"c" * 1000)]),
            "many": (1 << 20, [(i * 9000, b"%c" % (65 + i) * 300) for i in range(50)] + [(1 << 20, b"")])}
for version in ("0.0", "0.1", "1.0"):
    case("sparse-" + version, many(lambda t, i, n: t.sparse_pax("s-" + n, *SEGMENTS[n], version),
                                   [n for n in SEGMENTS if version != "0.0" or SEGMENTS[n][1]]).file("after", b"a"))
case("sparse-gnu", many(lambda t, i, n: t.sparse_gnu("s-" + n, *SEGMENTS[n]), SEGMENTS).file("after", b"a"), **everybody("refuses"))
case("sparse-names", Tar().pax([("GNU.sparse.map", "0,1"), ("GNU.sparse.numblocks", "1"), ("GNU.sparse.size", "4"), ("GNU.sparse.realsize", "9"), ("path", "from-path"), ("GNU.sparse.name", "from-sparse")])
     .gnu_long("from-long").file("from-header", b"1").pax([("GNU.sparse.map", "9,9"), ("GNU.sparse.numblocks", "1"), ("GNU.sparse.realsize", "4"), ("GNU.sparse.offset", "2"), ("GNU.sparse.numbytes", "1")])
     .gnu_long("only-long").file("from-header", b"1"))
refused("sparse-on-dir", Tar().pax([("GNU.sparse.map", "0,0"), ("GNU.sparse.numblocks", "1"), ("GNU.sparse.name", "elsewhere"), ("GNU.sparse.size", "4")]).dir("d"), **everybody("refuses"))
case("sparse-pending", Tar().pax([("GNU.sparse.map", "0,1"), ("GNU.sparse.numblocks", "1"), ("GNU.sparse.size", "4"), ("GNU.sparse.name", "replaced")])
     .pax([("mtime", "9")]).file("plain", b"1234"))

# ---- Duplicates, ends of archives, streams

case("dir-over-link", Tar().dir("real").file("real/f", b"1").symlink("link", "real").dir("link").file("link/g", b"2"),
     podman="refuses")  # a name twice
case("end-zero-block", Layer(Tar().file("f", b"1").bytes(end=False) + b"\0" * 512, LAYER))
case("end-padding", Layer(Tar().file("f", b"1").bytes() + b"\0" * 10240, LAYER))
case("end-garbage", Layer(Tar().file("f", b"1").bytes() + b"not a header" * 100, LAYER))
case("end-second-archive", Layer(Tar().file("f", b"1").bytes() + Tar().file("g", b"2").bytes(), LAYER))
case("end-none", Layer(Tar().file("f", b"1" * 512).bytes(end=False), LAYER))
refused("end-one-zero", Layer(Tar().file("f", b"1").bytes(end=False) + b"\0" * 512 + Tar().file("g", b"2").bytes(), LAYER), **everybody("refuses"))
refused("end-cut-data", Layer(Tar().file("f", b"1" * 600).bytes(end=False)[:1000], LAYER), **everybody("refuses"))
refused("end-cut-header", Layer(Tar().file("f", b"1").bytes(end=False)[:1024] + b"x" * 100, LAYER), **everybody("refuses"))
case("layer-of-no-bytes", Tar().file("a", b"a"), Layer(b"", LAYER_GZIP, blob=gzipped(b"")))
case("layer-of-no-bytes-zstd", Tar().file("a", b"a"), Layer(b"", LAYER_ZSTD, blob=zstded(b"")), umoci="refuses")


def windowed(log):
    """A frame whose header asks for a window of 2^log bytes, whatever its content."""
    def layers():
        tar = Tar().file("b", random.Random(log).randbytes(3 << 20)).bytes()
        return [Layer(tar, LAYER_ZSTD, blob=subprocess.run(["zstd", "-q", "-c", "--ultra", "-3", f"--long={log}"], input=tar, stdout=subprocess.PIPE, check=True).stdout)]
    return layers


for log in (10, 23, 27, 28, 29):
    case(f"zstd-window-{log}", windowed(log), umoci="refuses")  # it knows no zstd
for log in (30, 31):
    refused(f"zstd-window-{log}", windowed(log), **everybody("refuses"))


def layers_of(name):
    layers = CASES[name]
    if callable(layers[0]):
        layers = layers[0]()
    return [l if isinstance(l, Layer) else Layer(l, LAYER) for l in layers]


def main(args):
    if args == ["--list"]:
        print("\n".join(CASES))
        return
    for name in args[1:] or CASES:
        simple_image(f"{args[0]}/{name}", layers_of(name))


if __name__ == "__main__":
    main(sys.argv[1:])
