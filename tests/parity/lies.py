#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Shows that the checks can fail: lies.py TREE visits one tree twice, the second time with one function replaced by
one that lies, and demands that the comparison names the check it is about."""
import contextlib
import errno
import fcntl
import io
import itertools
import os
import sys
import tempfile
import types

import calls
import check_files
import check_rights
import check_tree
import parity
from side import Side, entries

WRITES = ("mkdir", "rmdir", "unlink", "rename", "link", "symlink", "mknod", "chmod", "chown", "lchown", "utime",
          "truncate", "setxattr", "removexattr", "fchmod", "fchown", "ftruncate", "write", "open")


def answers(change):
    return lambda real: lambda *arguments, **named: change(real(*arguments, **named))


def instead(value):
    return lambda real: lambda *arguments, **named: value


def errors_as(number):
    def lie(real):
        def lying(*arguments, **named):
            try:
                return real(*arguments, **named)
            except OSError:
                raise OSError(number, "a lie") from None
        return lying
    return lie


def always(number):
    def lie(_):
        def lying(*arguments, **named):
            raise OSError(number, "a lie")
        return lying
    return lie


def field(name, value):
    def altered(found):
        fields = {key: getattr(found, key) for key in dir(found) if key.startswith(("st_", "f_"))}
        return types.SimpleNamespace(**{**fields, name: value})
    return answers(altered)


def now_and_then(change, every=50):
    count = itertools.count(1)
    return answers(lambda answer: change(answer) if next(count) % every == 0 else answer)


def flipped(data):
    return bytes([data[0] ^ 1]) + data[1:] if data else data


def lies():
    """(topic, owner of a function, its name, lie, what the comparison must name)"""
    yield "metadata", os, "lstat", field("st_mtime_ns", 5), "lstat"
    yield "metadata", os, "lstat", field("st_nlink", 9), "lstat"
    yield "metadata", os, "lstat", field("st_ino", 9), "first path with this st_ino"
    yield "metadata", os, "lstat", field("st_blocks", 0), "st_blocks"
    yield "metadata", os, "lstat", field("st_blksize", 1000), "st_blksize"
    yield "metadata", os, "stat", field("st_uid", 9), "stat"
    yield "metadata", os, "fstat", field("st_size", 9), "fstat"
    yield "metadata", calls, "statx", answers(lambda found: {**found, "gid": 9}), "statx 0x100"
    yield "metadata", calls, "statx", answers(lambda found: {**found, "size": 9}), "statx 0x100"
    yield "metadata", check_tree, "access", instead(0), "faccessat 8"
    yield "metadata", calls, "readlink", answers(lambda target: target[:-1]), "readlink into"
    yield "xattrs", calls, "xattr", answers(lambda found: (found[0] + 1, found[1])), "into 0 bytes"
    yield "xattrs", calls, "xattr", errors_as(errno.EIO), "absent"
    yield "xattrs", calls, "xattr_names", answers(lambda found: (found[0], found[1][:-1])), "listxattr into 65536"
    yield "xattrs", calls, "xattr_names", errors_as(errno.EIO), "listxattr into"
    same_type = answers(lambda found: [(name, 0, inode, position) for name, _, inode, position in found])
    yield "directories", calls, "getdents", same_type, "names and types"
    no_inode = answers(lambda found: [(name, kind, 7, position) for name, kind, _, position in found])
    yield "directories", calls, "getdents", no_inode, "d_ino"
    no_position = answers(lambda found: [(name, kind, inode, 0) for name, kind, inode, _ in found])
    yield "directories", calls, "getdents", no_position, "positions of getdents64"
    yield "directories", calls, "getdents", answers(lambda found: found[:5]), "getdents64 into 600 bytes"
    yield "directories", calls, "getdents", answers(lambda found: found * 2), "no name twice"
    yield "directories", calls.Stream, "tell", instead(0), "telldir"
    yield "directories", calls.Stream, "rewind", instead(None), "telldir"
    yield "directories", check_tree, "in_threads", answers(lambda found: found[:-1] + [[(b"stray",)]]), "readers"
    yield "root", os, "stat", now_and_then(lambda st: types.SimpleNamespace(st_dev=0, st_ino=0), every=2), ".. b"
    yield "root", calls, "openat2", always(errno.EIO), "openat2"
    yield "opening", os, "open", errors_as(errno.EIO), "open O_CREAT"
    yield "opening", os, "fstat", field("st_mode", 0), "open O_PATH"
    yield "opening", calls, "openat2", errors_as(errno.EIO), "openat2"
    yield "opening", os, "chdir", errors_as(errno.EIO), "chdir"
    yield "filesystem", os, "statvfs", field("f_namemax", 9), "f_namemax"
    yield "filesystem", os, "statvfs", field("f_flag", 0), "f_flag"
    yield "filesystem", os, "statvfs", field("f_files", 0), "a file for each inode"
    for name in WRITES:
        yield "refused", os, name, errors_as(errno.EPERM), {"utime": "utimensat"}.get(name, name)
    yield "refused", os, "mkdir", instead(None), "mkdir: EROFS"
    yield "refused", check_rights, "call", errors_as(errno.EPERM), "renameat2"
    yield "users", check_rights, "access", instead(0), "faccessat"
    yield "users", check_rights, "become", instead(None), "as 1000:1000[]: open"
    yield "users", os, "listdir", errors_as(errno.EIO), "listdir"
    yield "programs", os, "execve", always(errno.EACCES), "geteuid of a setuid program"
    yield "programs", check_rights, "become", instead(None), "a program without it"
    yield "reading", os, "pread", answers(flipped), "pread of 4096"
    yield "reading", os, "read", answers(flipped), "read in odd pieces"
    yield "reading", os, "preadv", answers(lambda size: size // 2), "O_DIRECT"
    yield "reading", os, "preadv", errors_as(errno.EIO), "into memory off by"
    yield "reading", os, "lseek", instead(0), "seek to 1 before the end"
    yield "reading", check_files, "call", always(errno.EIO), "pread into nowhere"
    yield "mapping", calls.Mapping, "read", answers(flipped), "mmap MAP_SHARED"
    yield "mapping", calls.Mapping, "write", instead(None), "mmap of its own pages"
    yield "mapping", calls.Mapping, "call", instead(None), "mprotect"
    yield "mapping", check_files, "touch", instead(0), "byte after the last page"
    yield "transfer", os, "sendfile", instead(0), "sendfile from 0"
    yield "transfer", os, "splice", instead(0), "splice from 0"
    yield "transfer", os, "copy_file_range", instead(0), "copy_file_range to the disk from 0"
    yield "transfer", os, "posix_fadvise", always(errno.EIO), "posix_fadvise"
    yield "transfer", os, "fsync", always(errno.EIO), "fsync"
    yield "transfer", os, "lseek", answers(lambda offset: offset + 1), "SEEK_DATA"
    yield "transfer", check_files, "holes", answers(lambda _: "wrong"), "SEEK_DATA and SEEK_HOLE"
    yield "threads", os, "pread", now_and_then(flipped), "16 threads"
    yield "events", check_files, "read_events", answers(lambda events: events[1:]), "inotify"
    yield "locks", fcntl, "flock", instead(None), "flock"
    yield "locks", calls, "lock", instead((2, 0, 0)), "lock in the way"
    yield "locks", fcntl, "fcntl", errors_as(errno.EIO), "F_SETLEASE"
    yield "special", os, "read", answers(flipped), "read"
    yield "special", check_files, "become", instead(None), "open of a device as"


def main():
    root = os.path.realpath(os.fsencode(sys.argv[1]))
    tree, honest, unseen, count = entries(root), {}, [], 0
    check_rights.USERS = check_rights.USERS[:2]  # no lie needs more
    with tempfile.TemporaryDirectory() as scratch:
        def visited(topic):
            side = Side("disk", root, tree, {b"."}, scratch)
            parity.visit(side, [topic])
            return side
        for topic, owner, name, lie, expected in lies():
            if topic not in honest:
                honest[topic] = visited(topic)
            real = getattr(owner, name)
            setattr(owner, name, lie(real))
            try:
                liar = visited(topic)
            finally:
                setattr(owner, name, real)
            said = io.StringIO()
            with contextlib.redirect_stdout(said):
                equal = parity.compare(honest[topic], liar, 1 << 30)
            count += 1
            if equal or expected not in said.getvalue() or "Traceback" in said.getvalue():
                unseen.append((topic, name, expected, said.getvalue()[:500]))
    for lie in unseen:
        print("not seen: %s: %s should show in %r\n%s" % lie)
    print(f"{count} lies, {len(unseen)} not seen")
    sys.exit(1 if unseen else 0)


if __name__ == "__main__":
    main()
