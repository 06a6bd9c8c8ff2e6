# SPDX-License-Identifier: Apache-2.0
"""The system calls that Python has no function for, or whose function hides what is compared here."""
import ctypes
import errno
import fcntl
import os
import struct
from ctypes import c_char_p, c_int, c_int64, c_long, c_size_t, c_ssize_t, c_uint, c_void_p

AT_FDCWD, AT_SYMLINK_NOFOLLOW, AT_EACCESS, AT_SYMLINK_FOLLOW, AT_EMPTY_PATH = -100, 0x100, 0x200, 0x400, 0x1000
AT_STATX_FORCE_SYNC, AT_STATX_DONT_SYNC, STATX_BASIC_STATS = 0x2000, 0x4000, 0x7ff
STATX_ATTR_MOUNT_ROOT, STATX_ATIME = 0x2000, 0x20
IN_ACCESS, IN_OPEN, IN_CLOSE_NOWRITE, IN_ALL_EVENTS = 0x1, 0x20, 0x10, 0xfff
F_OFD_GETLK, F_OFD_SETLK = 36, 37
RENAME_NOREPLACE, RENAME_EXCHANGE, RENAME_WHITEOUT = 1, 2, 4
RESOLVE_NO_XDEV, RESOLVE_NO_SYMLINKS, RESOLVE_BENEATH, RESOLVE_IN_ROOT = 0x01, 0x04, 0x08, 0x10
SYS_OPENAT2, SYS_CAPSET = 437, 126 if os.uname().machine == "x86_64" else 91
MAP_FAILED = c_void_p(-1).value
NAMES = {**errno.errorcode, errno.EOPNOTSUPP: "EOPNOTSUPP"}  # which Python calls ENOTSUP

libc = ctypes.CDLL(None, use_errno=True)
SIGNATURES = {
    "faccessat": (c_int, c_int, c_char_p, c_int, c_int),
    "statx": (c_int, c_int, c_char_p, c_int, c_uint, c_void_p),
    "readlinkat": (c_ssize_t, c_int, c_char_p, c_void_p, c_size_t),
    "getdents64": (c_ssize_t, c_int, c_void_p, c_size_t),
    "opendir": (c_void_p, c_char_p), "readdir": (c_void_p, c_void_p), "closedir": (c_int, c_void_p),
    "telldir": (c_long, c_void_p), "seekdir": (None, c_void_p, c_long), "rewinddir": (None, c_void_p),
    "getxattr": (c_ssize_t, c_char_p, c_char_p, c_void_p, c_size_t),
    "lgetxattr": (c_ssize_t, c_char_p, c_char_p, c_void_p, c_size_t),
    "fgetxattr": (c_ssize_t, c_int, c_char_p, c_void_p, c_size_t),
    "listxattr": (c_ssize_t, c_char_p, c_void_p, c_size_t),
    "llistxattr": (c_ssize_t, c_char_p, c_void_p, c_size_t),
    "flistxattr": (c_ssize_t, c_int, c_void_p, c_size_t),
    "mmap": (c_void_p, c_void_p, c_size_t, c_int, c_int, c_int, c_int64),
    "munmap": (c_int, c_void_p, c_size_t), "mprotect": (c_int, c_void_p, c_size_t, c_int),
    "msync": (c_int, c_void_p, c_size_t, c_int), "madvise": (c_int, c_void_p, c_size_t, c_int),
    "mlock": (c_int, c_void_p, c_size_t),
    "readahead": (c_ssize_t, c_int, c_int64, c_size_t),
    "inotify_init1": (c_int, c_int), "inotify_add_watch": (c_int, c_int, c_char_p, c_uint),
    "fallocate": (c_int, c_int, c_int, c_int64, c_int64),
    "renameat2": (c_int, c_int, c_char_p, c_int, c_char_p, c_uint),
    "linkat": (c_int, c_int, c_char_p, c_int, c_char_p, c_int),
    "prctl": (c_int, c_int, c_long, c_long, c_long, c_long),
    "execveat": (c_int, c_int, c_char_p, c_void_p, c_void_p, c_int), "syncfs": (c_int, c_int),
    "pread": (c_ssize_t, c_int, c_void_p, c_size_t, c_int64), "syscall": (c_long,),
}
for _name, (_result, *_arguments) in SIGNATURES.items():
    _function = getattr(libc, _name)
    _function.restype = _result
    if _name != "syscall":  # takes any
        _function.argtypes = _arguments


def attempt(function, *arguments, **named):
    """What the function returns, or the name of its error.

    While something is mounted elsewhere the kernel may begin a path anew and goes on counting its symbolic links, on every
    file system: of a long chain that is allowed there are then too many. So that answer has to come twenty times.
    """
    for _ in range(20):
        try:
            return function(*arguments, **named)
        except OSError as error:
            name = NAMES[error.errno]
            if name != "ELOOP":
                break
    return name


def call(name, *arguments):
    ctypes.set_errno(0)
    result = getattr(libc, name)(*arguments)
    if result == -1 or result == MAP_FAILED:
        raise OSError(ctypes.get_errno(), name)
    return result


def access(path, mode, flags=0):
    return call("faccessat", AT_FDCWD, path, mode, flags)


def statx(path, flags=AT_SYMLINK_NOFOLLOW, mask=STATX_BASIC_STATS, fd=AT_FDCWD):
    buffer = ctypes.create_string_buffer(256)
    call("statx", fd, path, flags, mask, buffer)
    names = ("mask", "blksize", "attributes", "nlink", "uid", "gid", "mode", "ino", "size", "blocks", "attributes_mask")
    result = dict(zip(names, struct.unpack_from("<IIQIIIH2xQQQQ", buffer, 0)))
    for name, at in (("atime", 64), ("ctime", 96), ("mtime", 112)):
        seconds, nanoseconds = struct.unpack_from("<qI", buffer, at)
        result[name] = seconds * 10 ** 9 + nanoseconds
    result["rdev"] = struct.unpack_from("<II", buffer, 128)
    result["dev"] = os.makedev(*struct.unpack_from("<II", buffer, 136))
    return result


def readlink(path, size):
    buffer = ctypes.create_string_buffer(max(size, 1))
    got = call("readlinkat", AT_FDCWD, path, buffer, size)
    return buffer.raw[:got]


def getdents(fd, size):
    """[(name, type, inode, position of the next one)] of one call."""
    buffer = ctypes.create_string_buffer(size)
    got = call("getdents64", fd, buffer, size)
    raw, entries, at = buffer.raw[:got], [], 0
    while at < len(raw):
        inode, position, length, kind = struct.unpack_from("<QqHB", raw, at)
        entries.append((raw[at + 19:at + length].split(b"\0")[0], kind, inode, position))
        at += length
    return entries


def all_getdents(fd, size):
    entries = []
    while part := getdents(fd, size):
        entries += part
    return entries


class Stream:
    """opendir and its kin, with the positions of telldir."""

    def __init__(self, path):
        self.stream = libc.opendir(path)
        if not self.stream:
            raise OSError(ctypes.get_errno(), "opendir")

    def read(self, limit=None):
        names = []
        while limit is None or len(names) < limit:
            entry = libc.readdir(self.stream)
            if not entry:
                break
            names.append(ctypes.string_at(entry + 19))
        return names

    def tell(self):
        return libc.telldir(self.stream)

    def seek(self, position):
        libc.seekdir(self.stream, position)

    def rewind(self):
        libc.rewinddir(self.stream)

    def close(self):
        libc.closedir(self.stream)


def xattr(function, target, name, size):
    """The value as (size, bytes); `function` is getxattr, lgetxattr or fgetxattr."""
    buffer = ctypes.create_string_buffer(max(size, 1))
    got = call(function, target, name, buffer if size else None, size)
    return got, buffer.raw[:got if size else 0]


def xattr_names(function, target, size):
    """(size, sorted names): the order is the file system's own."""
    buffer = ctypes.create_string_buffer(max(size, 1))
    got = call(function, target, buffer if size else None, size)
    return got, sorted(buffer.raw[:got if size else 0].split(b"\0")[:-1])


class Mapping:
    """A mapping that may be larger than its file, which Python's own may not."""

    def __init__(self, fd, size, protection, flags, offset=0):
        self.size = size
        self.address = call("mmap", None, size, protection, flags, fd, offset)

    def read(self, offset, size):
        return ctypes.string_at(self.address + offset, size)

    def write(self, offset, data):
        ctypes.memmove(self.address + offset, data, len(data))

    def call(self, name, *arguments):
        return call(name, self.address, self.size, *arguments)

    def close(self):
        call("munmap", self.address, self.size)


def openat2(path, flags, resolve, fd=AT_FDCWD):
    how = struct.pack("<QQQ", flags, 0, resolve)
    for _ in range(1000):
        try:
            return call("syscall", c_long(SYS_OPENAT2), c_int(fd), c_char_p(path), c_char_p(how), c_size_t(len(how)))
        except OSError as error:
            # Somebody mounted or renamed anything anywhere while the kernel walked a "..".
            if error.errno != errno.EAGAIN:
                raise
    raise OSError(errno.EAGAIN, "openat2")


def lock(fd, command, kind, start=0, length=0):
    """A lock of fcntl; answers the one that is in the way, if asked for."""
    raw = fcntl.fcntl(fd, command, struct.pack("hhqqi4x", kind, os.SEEK_SET, start, length, 0))
    kind, _, start, length, _ = struct.unpack("hhqqi4x", raw)
    return kind, start, length
