# SPDX-License-Identifier: Apache-2.0
"""What may be done: no write, and the rest by the mode bits of the image."""
import ctypes
import errno
import mmap
import os
import socket
import stat
import struct

import calls
from calls import Mapping, access, attempt, call
from check_tree import absent_answers
from side import READ_ONLY_FIRST, become, ended, opened, topic


# ---- every attempt to write

@topic
def refused(side):
    attempts(side)
    for uid, gid in ((1000, 2000), (1001, 1001)):  # whom the mode bits would let write, and whom not
        def as_user():
            side.prefix = f"as {uid}: "
            become(uid, gid)
            attempts(side)
        side.apart(as_user)
    side.prefix = ""


def attempts(side):
    root = os.geteuid() == 0
    for path in TARGETS:
        for name, function in WRITES.items():
            answer = side.call(name, path, function, path, accept=READ_ONLY_FIRST)
            if not isinstance(answer, str):
                side.wrong.append((f"refused: {side.prefix}{name}", path, answer, "an error"))
        for name, flags in WRITING_OPENS.items():
            answer = side.call(name, path, opened_for, path, flags, accept=READ_ONLY_FIRST)
            if not isinstance(answer, str) and path not in (b"special/fifo", b"special/null"):
                side.wrong.append((f"refused: {side.prefix}{name}", path, answer, "an error"))
    for name, path in SURE.items():
        if root or name != "truncate":  # which asks for the permission to write first
            side.must(f"{name}: EROFS", path, attempt(WRITES[name], path), "EROFS")
    if root:
        for name, flags in WRITING_OPENS.items():
            path = b"files/absent" if "O_CREAT" in name else b"files" if "O_TMPFILE" in name else b"files/513"
            side.must(f"{name}: EROFS", path, attempt(opened_for, path, flags), "EROFS")
    for path in (b"owned/file", b"files/513", b"owned", b"special/fifo"):
        by_descriptor(side, path)


TARGETS = [b".", b"..", b"files/513", b"files/absent", b"files/absent/", b"files/1/below", b"absent/below",
           b"owned/file", b"owned/empty", b"owned/link", b"owned/absent", b"links", b"links/file", b"links/dir",
           b"links/dangling", b"links/self", b"odd/none", b"odd/dir/", b"odd/dir/.", b"odd/dir/..",
           b"odd/" + b"n" * 256, b"special/fifo", b"special/null", b"hard/a", b"bin/capable", b"xattrs/file"]
# What has no other reason to fail.
SURE = {"mkdir": b"files/absent", "rmdir": b"odd/none", "unlink": b"files/513", "rename": b"files/513",
        "rename over": b"files/513", "rename of a directory": b"odd/dir", "renameat2 exchange": b"files/513",
        "link": b"files/513", "symlink": b"files/absent", "mknod of a FIFO": b"files/absent",
        "mknod of a file": b"files/absent", "mknod of a device": b"files/absent", "bind": b"files/absent",
        "chmod": b"files/513", "chown": b"files/513", "lchown": b"links/file", "utimensat": b"files/513",
        "utimensat now": b"files/513", "utimensat of a link": b"links/file", "truncate": b"files/513",
        "setxattr user": b"files/513", "setxattr of an ACL": b"files/513", "removexattr": b"xattrs/file"}


def opened_for(path, flags):
    os.close(os.open(path, flags | os.O_NONBLOCK, 0o600))
    return "open"


def bind_socket(path):
    if len(path) > 107:
        raise OSError(errno.ENAMETOOLONG, "bind")
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(path)


def rename(path, to, flags=0):
    return call("renameat2", CWD, path, CWD, to, flags)


CWD = calls.AT_FDCWD
FIFO, REGULAR, CHARACTER = stat.S_IFIFO | 0o600, stat.S_IFREG | 0o600, stat.S_IFCHR | 0o600
ACL = struct.pack("<I" + "HHI" * 3, 2, 1, 6, 0xffffffff, 4, 4, 0xffffffff, 32, 0, 0xffffffff)
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1, 0, 0, 0)
WRITES = {
    "mkdir": lambda p: os.mkdir(p),
    "rmdir": lambda p: os.rmdir(p),
    "unlink": lambda p: os.unlink(p),
    "rename": lambda p: os.rename(p, b"files/absent-too"),
    "rename over": lambda p: os.rename(p, b"files/512"),
    "rename over a directory": lambda p: os.rename(p, b"odd/none"),
    "rename of a directory": lambda p: os.rename(p, b"odd/absent"),
    "rename onto itself": lambda p: os.rename(p, p),
    "rename into itself": lambda p: os.rename(p, p + b"/in"),
    "rename to below a file": lambda p: os.rename(p, b"files/1/in"),
    "renameat2 exchange": lambda p: rename(p, b"files/512", calls.RENAME_EXCHANGE),
    "renameat2 no replace": lambda p: rename(p, b"files/512", calls.RENAME_NOREPLACE),
    "renameat2 whiteout": lambda p: rename(p, b"files/absent-too", calls.RENAME_WHITEOUT),
    "renameat2 of flags there are not": lambda p: rename(p, b"files/512", 0x80),
    "link": lambda p: os.link(p, b"files/absent-too"),
    "link over": lambda p: os.link(p, b"files/512"),
    "link followed": lambda p: call("linkat", CWD, p, CWD, b"files/absent-too", calls.AT_SYMLINK_FOLLOW),
    "link to it": lambda p: os.link(b"files/512", p),
    "symlink": lambda p: os.symlink(b"target", p),
    "symlink to nothing": lambda p: os.symlink(b"", p),
    "mknod of a FIFO": lambda p: os.mknod(p, FIFO),
    "mknod of a file": lambda p: os.mknod(p, REGULAR),
    "mknod of a device": lambda p: os.mknod(p, CHARACTER, os.makedev(1, 3)),
    "mknod of a directory": lambda p: os.mknod(p, stat.S_IFDIR | 0o700),
    "bind": bind_socket,
    "chmod": lambda p: os.chmod(p, 0o600),
    "chown": lambda p: os.chown(p, 1000, 2000),
    "chown of nothing": lambda p: os.chown(p, -1, -1),
    "lchown": lambda p: os.lchown(p, 1000, 2000),
    "utimensat": lambda p: os.utime(p, ns=(1, 1)),
    "utimensat now": lambda p: os.utime(p),
    "utimensat of a link": lambda p: os.utime(p, ns=(1, 1), follow_symlinks=False),
    "truncate": lambda p: os.truncate(p, 0),
    "truncate to more": lambda p: os.truncate(p, 1 << 20),
    "truncate to -1": lambda p: os.truncate(p, -1),
    "setxattr user": lambda p: os.setxattr(p, b"user.new", b"v"),
    "setxattr user of a link": lambda p: os.setxattr(p, b"user.new", b"v", follow_symlinks=False),
    "setxattr trusted": lambda p: os.setxattr(p, b"trusted.new", b"v"),
    "setxattr security": lambda p: os.setxattr(p, b"security.new", b"v"),
    "setxattr of a capability": lambda p: os.setxattr(p, b"security.capability", CAPABILITY),
    "setxattr of an ACL": lambda p: os.setxattr(p, b"system.posix_acl_access", ACL),
    "setxattr of no class": lambda p: os.setxattr(p, b"new", b"v"),
    "setxattr create": lambda p: os.setxattr(p, b"user.one", b"v", os.XATTR_CREATE),
    "setxattr replace": lambda p: os.setxattr(p, b"user.one", b"v", os.XATTR_REPLACE),
    "setxattr of too much": lambda p: os.setxattr(p, b"user.new", b"v" * 65537),
    "setxattr of a long name": lambda p: os.setxattr(p, b"user." + b"n" * 251, b"v"),
    "removexattr": lambda p: os.removexattr(p, b"user.one"),
    "removexattr of what is absent": lambda p: os.removexattr(p, b"user.absent"),
    "removexattr of a capability": lambda p: os.removexattr(p, b"security.capability"),
    "removexattr of an ACL": lambda p: os.removexattr(p, b"system.posix_acl_access"),
}
WRITING_OPENS = {
    "open O_WRONLY": os.O_WRONLY, "open O_RDWR": os.O_RDWR, "open O_TRUNC": os.O_TRUNC,
    "open O_CREAT": os.O_CREAT | os.O_WRONLY, "open O_CREAT|O_EXCL": os.O_CREAT | os.O_EXCL | os.O_RDWR,
    "open O_CREAT|O_TRUNC": os.O_CREAT | os.O_TRUNC | os.O_WRONLY,
    "open O_APPEND": os.O_WRONLY | os.O_APPEND, "open O_TMPFILE": os.O_TMPFILE | os.O_WRONLY,
    "open O_WRONLY|O_DIRECT": os.O_WRONLY | os.O_DIRECT,
}


def by_descriptor(side, path):
    fd = attempt(os.open, path, os.O_RDONLY | os.O_NONBLOCK)
    if isinstance(fd, str):
        side.note("open", path, fd)
        return
    for name, function in (
            ("write", lambda: os.write(fd, b"x")), ("ftruncate", lambda: os.ftruncate(fd, 0)),
            ("fallocate", lambda: call("fallocate", fd, 0, 0, 4096)),
            ("fallocate of a hole", lambda: call("fallocate", fd, 3, 0, 4096)),
            ("fchmod", lambda: os.fchmod(fd, 0o600)), ("fchown", lambda: os.fchown(fd, 1, 1)),
            ("futimens", lambda: os.utime(fd, ns=(1, 1))), ("fsetxattr", lambda: os.setxattr(fd, b"user.new", b"v")),
            ("fremovexattr", lambda: os.removexattr(fd, b"user.one")),
            ("linkat", lambda: call("linkat", fd, b"", CWD, b"files/absent", calls.AT_EMPTY_PATH)),
            ("mkdirat", lambda: os.mkdir(b"absent", dir_fd=fd)),
            ("unlinkat", lambda: os.unlink(b"empty", dir_fd=fd))):
        side.call(f"{name} by descriptor", path, function)
    for name, function in (("fchmod", lambda: os.fchmod(fd, 0o600)), ("futimens", lambda: os.utime(fd, ns=(1, 1))),
                           ("fsetxattr", lambda: os.setxattr(fd, b"user.new", b"v"))):
        side.must(f"{name}: EROFS", path, attempt(function), "EROFS")
    os.close(fd)


# ---- permissions, programs

USERS = [(0, 0, ()), (1000, 1000, ()), (1000, 2000, ()), (1001, 2000, ()), (1001, 1001, (2000, 6)), (65534, 65534, ()),
         (3, 0, ())]


@topic
def users(side):
    for uid, gid, groups in USERS:
        def as_user():
            side.prefix = f"as {uid}:{gid}{list(groups)}: "
            become(uid, gid, groups)
            allowed(side)
        side.apart(as_user)

    def with_real_user():  # access() asks for the real one, AT_EACCESS and open for the effective one
        side.prefix = "real 0, effective 1000: "
        os.setgroups(())
        os.setresgid(0, 1000, 0)
        os.setresuid(0, 1000, 0)
        allowed(side)
    side.apart(with_real_user)

    def without_override():
        side.prefix = "root without capabilities: "
        header = struct.pack("<Ii", 0x20080522, 0)
        call("syscall", ctypes.c_long(calls.SYS_CAPSET), ctypes.c_char_p(header), ctypes.c_char_p(b"\0" * 24))
        allowed(side)
    side.apart(without_override)
    side.prefix = ""


def allowed(side):
    for path in side.paths(each=13, limit=300):
        for mode in (os.F_OK, os.R_OK, os.W_OK, os.X_OK, 7):
            for flags in (0, calls.AT_EACCESS):
                side.call(f"faccessat {mode} {flags:#x}", path, access, path, mode, flags,
                          accept=READ_ONLY_FIRST if mode & os.W_OK else [])
        side.call("lstat", path, lambda: oct(os.lstat(path).st_mode))
        side.call("readlink", path, os.readlink, path)
        side.call("llistxattr", path, lambda: calls.xattr_names("llistxattr", path, 65536)[1])
        for name in (b"user.secret", b"user.thing", b"trusted.thing", b"security.mine"):
            side.call(f"getxattr {name}", path, calls.xattr, "getxattr", path, name, 100,
                      accept=absent_answers(side, name))
    # Whatever a device is on this machine, it is not opened; no link of the images leads to one.
    for path in side.paths("fdlp", each=13, limit=300):
        for name, flags in (("O_RDONLY", 0), ("O_NOATIME", os.O_NOATIME), ("O_PATH", os.O_PATH)):
            side.call(f"open {name}", path, read_some, path, flags)
        side.call("open O_WRONLY", path, opened_for, path, os.O_WRONLY, accept=READ_ONLY_FIRST)
    for path in side.paths("d", limit=100):
        side.call("listdir", path, lambda: sorted(os.listdir(path)))
        side.note("chdir", path, ended(lambda: os.chdir(path)))


def read_some(path, flags):
    with opened(path, flags | os.O_NONBLOCK) as fd:
        return attempt(os.read, fd, 4)


@topic
def programs(side):
    names = (b"prog", b"plain", b"setuid", b"setgid", b"capable", b"incapable", b"private", b"group", b"script",
             b"relative", b"lost", b"text", b"nothing")
    for uid, gid in ((0, 0), (1000, 1000), (1001, 2000)):
        for name in names + (b"none", b".", b"prog/below"):
            path = b"bin/" + name
            side.note(f"execve as {uid}:{gid}", path, ended(lambda: run(path, uid, gid)))
        for name in names[:4]:
            answer = ended(lambda: run(b"bin/" + name, uid, gid, no_new_privileges=True))
            side.note(f"execve as {uid}:{gid}, without new privileges", b"bin/" + name, answer)
        side.note(f"fexecve as {uid}:{gid}", b"bin/setuid", ended(lambda: run_descriptor(b"bin/setuid", uid, gid)))
    for link in (b"links/file", b"links", b"special/fifo", b"special/null"):
        side.note("execve", link, ended(lambda: run(link, 0, 0)))
    side.must("geteuid of a setuid program", b"bin/setuid", ended(lambda: run(b"bin/setuid", 1000, 1000)), 42)
    side.must("a program with a capability", b"bin/capable", ended(lambda: run(b"bin/capable", 1000, 1000)), 0)
    side.must("a program without it", b"bin/incapable", ended(lambda: run(b"bin/incapable", 1000, 1000)), errno.EPERM)
    with opened(b"bin/code") as fd:
        area = Mapping(fd, 4, mmap.PROT_READ | mmap.PROT_EXEC, mmap.MAP_PRIVATE)
        side.must("code of a mapping", b"bin/code", ctypes.CFUNCTYPE(ctypes.c_int)(area.address)(), 42)
        area.close()


def run(path, uid, gid, no_new_privileges=False):
    if no_new_privileges:
        call("prctl", 38, 1, 0, 0, 0)
    become(uid, gid)
    os.execve(path, [b"name"], {})


def run_descriptor(path, uid, gid):
    fd = os.open(path, os.O_PATH)
    become(uid, gid)
    arguments, environment = (ctypes.c_char_p * 2)(b"name", None), (ctypes.c_char_p * 1)(None)
    call("execveat", fd, b"", arguments, environment, calls.AT_EMPTY_PATH)
