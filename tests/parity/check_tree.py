# SPDX-License-Identifier: Apache-2.0
"""What there is: attributes, names, directories, opening, the file system as a whole."""
import fcntl
import os
import stat

import calls
from calls import Stream, access, attempt, getdents
from side import READ_ONLY_FIRST, ended, in_threads, no_fsync, opened, topic


# ---- what a file is

def facts(side, st):
    """Left out: numbers of devices and inodes, times that an unpacked tree cannot have, sizes of directories."""
    kind = stat.S_IFMT(st.st_mode)
    found = {"mode": oct(st.st_mode), "nlink": st.st_nlink, "uid": st.st_uid, "gid": st.st_gid}
    if kind != stat.S_IFDIR:
        found["size"] = st.st_size
    if kind in (stat.S_IFCHR, stat.S_IFBLK):
        found["rdev"] = os.major(st.st_rdev), os.minor(st.st_rdev)
    if (st.st_dev, st.st_ino) not in side.loose_inodes:
        found["mtime"] = st.st_mtime_ns
    return found


@topic
def metadata(side):
    firsts = {}
    found = [attempt(os.lstat, path) for path in side.loose]
    side.loose_inodes = {(st.st_dev, st.st_ino) for st in found if not isinstance(st, str)}
    for entry in side.tree:
        path = entry.path
        st = attempt(os.lstat, path)
        if isinstance(st, str):
            side.note("lstat", path, st)
            continue
        side.note("lstat", path, facts(side, st))
        # Hard links have one inode number, and nothing else has it.
        side.note("first path with this st_ino", path, firsts.setdefault((st.st_dev, st.st_ino), path))
        side.must("st_blksize is a power of two", path, st.st_blksize >= 512 and st.st_blksize.bit_count() == 1, True)
        if entry.kind == "f":
            # tar and cp take a file of fewer blocks for one with holes. A mount may count the holes as blocks.
            side.note("st_blocks", path, "all" if st.st_blocks * 512 >= st.st_size else "fewer than st_size",
                      accept=[("fewer than st_size", "all")])
        if side.kind != "disk":  # the archive has no other time, and reading must not change any
            side.must("atime and ctime are mtime", path, (st.st_atime_ns, st.st_ctime_ns), (st.st_mtime_ns,) * 2)
        else:
            side.must("atime and ctime are mtime", path, 0, 0)
    for path in side.paths():
        followed(side, path)
        statx(side, path)
        for mode in (os.F_OK, os.R_OK, os.W_OK, os.X_OK, os.R_OK | os.X_OK, 7, 8):
            for flags in (0, calls.AT_EACCESS, calls.AT_SYMLINK_NOFOLLOW):
                side.call(f"faccessat {mode} {flags:#x}", path, access, path, mode, flags,
                          accept=READ_ONLY_FIRST if mode & os.W_OK else [])
        target = attempt(os.readlink, path)
        length = len(target) if isinstance(target, bytes) else 10
        for size in {0, 1, length - 1, length, length + 1, 4096}:
            side.call(f"readlink into {size} bytes", path, calls.readlink, path, size)


def followed(side, path):
    seen = lambda function, *arguments, **named: facts(side, function(*arguments, **named))
    side.call("stat", path, seen, os.stat, path)
    for more in (b"/", b"/.", b"/..", b"/absent"):
        side.call(f"lstat of {more} after it", path, lambda: stat.S_IFMT(os.lstat(path + more).st_mode))
    fd = attempt(os.open, path, os.O_PATH | os.O_NOFOLLOW)
    if isinstance(fd, str):
        side.note("open O_PATH", path, fd)
        return
    side.call("fstat", path, seen, os.fstat, fd)
    side.call("fstatat AT_EMPTY_PATH", path, lambda: calls.statx(b"", calls.AT_EMPTY_PATH, fd=fd)["mode"])
    side.call("read of an O_PATH descriptor", path, os.read, fd, 1)
    os.close(fd)


def statx(side, path):
    for flags in (0, calls.AT_SYMLINK_NOFOLLOW, calls.AT_SYMLINK_NOFOLLOW | calls.AT_STATX_FORCE_SYNC,
                  calls.AT_SYMLINK_NOFOLLOW | calls.AT_STATX_DONT_SYNC):
        side.call(f"statx {flags:#x}", path, statx_facts, side, path, flags)
    side.call("statx of both sync flags", path, calls.statx, path, 0x6000)
    side.call("statx of a reserved mask", path, calls.statx, path, 0, 0x80000000)
    side.call("statx of no flag there is", path, calls.statx, path, 0x800000)


def statx_facts(side, path, flags):
    found = calls.statx(path, flags)
    kept = {key: found[key] for key in ("nlink", "uid", "gid", "mode")}
    # What more a file system can tell is its own.
    kept["mask"] = found["mask"] & calls.STATX_BASIC_STATS
    if side.kind == "kernel":
        kept["mask"] |= calls.STATX_ATIME  # EROFS says that it does not keep this time, which is so
    kept["mount root"] = bool(found["attributes"] & found["attributes_mask"] & calls.STATX_ATTR_MOUNT_ROOT)
    st = os.lstat(path) if flags & calls.AT_SYMLINK_NOFOLLOW else os.stat(path)
    fields = {key: "st_" + key for key in ("ino", "dev", "size", "blocks", "mode")}
    fields.update({key: f"st_{key}_ns" for key in ("mtime", "atime", "ctime")})
    kept["as stat"] = [key for key, of_stat in fields.items() if found[key] != getattr(st, of_stat)]
    if not stat.S_ISDIR(found["mode"]):
        kept["size"], kept["rdev"] = found["size"], found["rdev"] if st.st_rdev else (0, 0)
    if (st.st_dev, st.st_ino) not in side.loose_inodes:
        kept["mtime"] = found["mtime"]
    return kept


ABSENT_NAMES = [b"user.absent", b"trusted.absent", b"security.absent", b"system.posix_acl_access", b"system.absent",
                b"absent", b"user.", b"", b"user." + b"x" * 250, b"user." + b"x" * 251]


def absent_answers(side, name):
    accept = []
    # An image without any attribute says so once, and the kernel never asks again.
    if side.kind == "fuse" and side.bare:
        accept += [("ENODATA", "EOPNOTSUPP"), ("EINVAL", "EOPNOTSUPP")]
    # The kernel's FUSE has one handler for all names, so it asks for those that have none elsewhere.
    elif side.kind == "fuse" and not (name.startswith((b"user.", b"trusted.", b"security.")) and name != b"user."):
        accept += [("EOPNOTSUPP", "ENODATA"), ("EINVAL", "ENODATA")]
    return accept


@topic
def xattrs(side):
    for path in side.paths():
        of_path(side, path)
        kind = attempt(lambda: stat.S_IFMT(os.lstat(path).st_mode))
        if kind not in (stat.S_IFREG, stat.S_IFDIR) or not side.opens(path):
            continue
        with opened(path) as fd:
            names = calls.xattr_names("flistxattr", fd, 65536)[1]
            side.note("flistxattr", path, names)
            for name in names + ABSENT_NAMES[:1]:
                side.call(f"fgetxattr {name}", path, calls.xattr, "fgetxattr", fd, name, 65536,
                          accept=absent_answers(side, name))


def of_path(side, path):
    for get, listed in (("lgetxattr", "llistxattr"), ("getxattr", "listxattr")):
        names = []
        total = side.call(f"{listed} into 0 bytes", path, calls.xattr_names, listed, path, 0)
        if not isinstance(total, str):
            total = total[0]
            for size in {max(total - 1, 1), total, total + 1, 65536, 70000} - {0}:
                answer = attempt(calls.xattr_names, listed, path, size)
                side.note(f"{listed} into {size} bytes", path, answer)
                names = answer[1] or names if not isinstance(answer, str) else names
        for name in names:
            size = side.call(f"{get} {name} into 0 bytes", path, calls.xattr, get, path, name, 0)
            size = 0 if isinstance(size, str) else size[0]
            for room in {1, max(size - 1, 0), size, size + 1, 65536, 70000} - {0}:
                side.call(f"{get} {name} into {room} bytes", path, calls.xattr, get, path, name, room)
        for name in ABSENT_NAMES:
            for size in (0, 100):
                side.call(f"{get} {name[:40]}{len(name)} absent, into {size} bytes", path, calls.xattr, get, path, name,
                          size, accept=absent_answers(side, name))


# ---- directories

@topic
def directories(side):
    for path in side.paths("d", limit=100):
        if side.opens(path):
            listing(side, path)
            stream(side, path)
    for path in side.paths("flpc", each=2, limit=20):
        side.call("opendir", path, lambda: sorted(Stream(path).read()))
    crowded(side)


def listing(side, path):
    with opened(path, os.O_RDONLY | os.O_DIRECTORY) as fd:
        whole = calls.all_getdents(fd, 1 << 16)
        side.note("getdents64: names and types", path, sorted((name, kind) for name, kind, _, _ in whole))
        side.must("no name twice", path, len({entry[0] for entry in whole}), len(whole))
        inodes = {name: inode for name, _, inode, _ in whole}
        seen = {name: os.lstat(path + b"/" + name).st_ino for name in inodes if path != b"." or name != b".."}
        side.must("d_ino is st_ino", path, [n for n in seen if seen[n] != inodes[n]], [])
        side.call("getdents64 at the end", path, getdents, fd, 1024)
        for size in (280, 600, 4096):  # the smallest holds one entry of the longest name
            os.lseek(fd, 0, os.SEEK_SET)
            side.must(f"getdents64 into {size} bytes", path, calls.all_getdents(fd, size), whole)
        os.lseek(fd, 0, os.SEEK_SET)
        side.call("getdents64 into 1 byte", path, getdents, fd, 1)
        side.call("getdents64 into 20 bytes", path, getdents, fd, 20)
        side.call("read of a directory", path, os.read, fd, 10)
        side.call("pread of a directory", path, os.pread, fd, 10, 0)
        side.call("write to a directory", path, os.write, fd, b"x")
        side.call("lseek to -1", path, os.lseek, fd, -1, os.SEEK_SET)
        side.call("fsync of a directory", path, os.fsync, fd, accept=no_fsync(side))
        # Each position leads to what came after it, from another descriptor as well.
        lost = []
        with opened(path) as other:
            for i in range(0, len(whole), len(whole) // 60 + 1):
                for use in (fd, other):
                    os.lseek(use, whole[i][3], os.SEEK_SET)
                    rest = getdents(use, 1024)
                    if rest != whole[i + 1:i + 1 + len(rest)] or (not rest and i + 1 < len(whole)):
                        lost.append(whole[i])
        side.must("positions of getdents64", path, lost, [])


def stream(side, path):
    directory = Stream(path)
    start = directory.tell()
    whole = directory.read()
    wrong = []
    for count in sorted({0, 1, 2, 3, len(whole) // 2, len(whole) - 1, len(whole)}):
        directory.rewind()
        first = directory.read(count)
        position = directory.tell()
        rest = directory.read()
        directory.seek(position)
        if first + rest != whole or directory.read() != rest:
            wrong.append(("telldir after", count))
        directory.seek(position)  # and from the middle, not only from the end
        directory.read(2)
        directory.seek(position)
        if directory.read(5) != rest[:5]:
            wrong.append(("seekdir from the middle", count))
    directory.seek(start)
    if directory.read() != whole:
        wrong.append("seekdir to the beginning")
    directory.close()
    side.must("telldir, seekdir, rewinddir", path, wrong, [])


def crowded(side):
    """Many readers of one directory: each with a descriptor sees all; those that share one see all together."""
    sizes = {}
    for entry in side.tree:
        parent = os.path.dirname(entry.path)
        sizes[parent] = sizes.get(parent, 0) + 1
    path = max(sizes, key=lambda parent: (sizes[parent], parent)) or b"."
    with opened(path) as fd:
        names = sorted(entry[0] for entry in calls.all_getdents(fd, 1 << 16))

    def alone(number):
        with opened(path) as own:
            return sorted(entry[0] for entry in calls.all_getdents(own, 300 + 100 * number))
    wrong = sum(found != names for found in in_threads(8, alone))
    side.must("8 readers at once", path, wrong, 0)
    with opened(path) as fd:
        shared = in_threads(4, lambda number: calls.all_getdents(fd, 1024))
    side.must("4 readers of one descriptor", path, sorted(e[0] for part in shared for e in part), names)


@topic
def root(side):
    """The root as seen from where it is mounted."""
    above, name = os.open(os.path.dirname(side.root), os.O_PATH), os.path.basename(side.root)
    inside = os.stat(side.root)
    same = lambda a, b: (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)
    side.must("..", b".", same(os.stat(name + b"/..", dir_fd=above), os.stat(b".", dir_fd=above)), True)
    side.must("../name", b".", same(os.stat(name + b"/../" + name, dir_fd=above), inside), True)
    side.must("root of a mount", b".", calls.statx(side.root)["attributes"] & calls.STATX_ATTR_MOUNT_ROOT != 0, True)
    for resolve in (calls.RESOLVE_NO_XDEV, calls.RESOLVE_BENEATH, calls.RESOLVE_IN_ROOT, calls.RESOLVE_NO_SYMLINKS):
        for path in (name, name + b"/.."):
            fd = attempt(calls.openat2, path, os.O_PATH, resolve, fd=above)
            side.note(f"openat2 {resolve:#x} of the mount", b".." if path.endswith(b"..") else b".",
                      fd if isinstance(fd, str) else "open")
    with opened(name, dir_fd=above) as fd:
        side.note("names", b".", sorted(os.listdir(fd)))
        os.fchdir(fd)
    os.chdir(b"..")
    side.must("chdir to .. from inside", b".", same(os.stat(b"."), os.stat(b".", dir_fd=above)), True)
    os.chdir(b"/")
    os.close(above)


root.outside = True


# ---- opening

ODD_PATHS = [b"files/absent", b"absent/file", b"files/513/", b"files/513/below", b"files/513/.", b"files/513/..",
             b"links/dir/513", b"links/dir/", b"links/dir/.", b"links/dots", b"links/file/", b"n" * 255, b"n" * 256,
             b"odd/" + b"n" * 256, b"odd/" + b"x/" * 2045 + b"y", b"odd/" + b"x/" * 2046, b"./" * 2046 + b"odd",
             b"./" * 2047 + b"od", b"", b"/", b"//files///513", b"..", b"../../files/513", b"links/39", b"links/40",
             b"links/41", b"odd/LATIN1-\xe9"]


@topic
def opening(side):
    names = ("O_RDONLY", "O_WRONLY", "O_RDWR", "O_CREAT", "O_CREAT|O_WRONLY", "O_CREAT|O_EXCL",
             "O_CREAT|O_TRUNC|O_RDWR", "O_TRUNC", "O_WRONLY|O_TRUNC", "O_WRONLY|O_APPEND", "O_APPEND",
             "O_DIRECTORY", "O_DIRECTORY|O_CREAT", "O_NOFOLLOW", "O_NOFOLLOW|O_CREAT", "O_DIRECTORY|O_NOFOLLOW",
             "O_PATH", "O_PATH|O_NOFOLLOW", "O_PATH|O_DIRECTORY", "O_TMPFILE", "O_TMPFILE|O_RDWR", "O_NOATIME", "O_SYNC", "O_ASYNC", "O_NOCTTY")
    flags = {name: sum(getattr(os, flag) for flag in name.split("|")) for name in names}
    chosen = [e.path for e in side.tree if e.path.startswith((b"links/", b"special/", b"odd/", b"hard/"))]
    chosen += [b"files/513", b"files"]
    # Whatever the block device is on this machine, it is not opened.
    for path in sorted({*ODD_PATHS, *chosen} - {b"special/block"}):
        for name, bits in flags.items():
            side.call(f"open {name}", path, open_as, path, bits | os.O_NONBLOCK)
        for resolve in (calls.RESOLVE_NO_XDEV, calls.RESOLVE_NO_SYMLINKS, calls.RESOLVE_BENEATH, calls.RESOLVE_IN_ROOT):
            side.call(f"openat2 {resolve:#x}", path, openat2_as, path, resolve)
    for path in ODD_PATHS:
        for name, function in (("stat", os.stat), ("lstat", os.lstat)):
            side.call(name, path, lambda: oct(function(path).st_mode))
        side.call("readlink", path, os.readlink, path)
        side.call("access", path, access, path, os.R_OK)
        side.call("getxattr", path, calls.xattr, "getxattr", path, b"user.absent", 10)
        side.call("listxattr", path, lambda: os.listxattr(path))
        side.note("chdir", path, ended(lambda: os.chdir(path)))
        side.call("opendir", path, lambda: len(Stream(path).read()))


def open_as(path, flags):
    fd = os.open(path, flags, 0o600)
    try:
        return "open", oct(os.fstat(fd).st_mode), fcntl.fcntl(fd, fcntl.F_GETFL)
    finally:
        os.close(fd)


def openat2_as(path, resolve):
    fd = calls.openat2(path, os.O_PATH, resolve)
    mode = os.fstat(fd).st_mode
    os.close(fd)
    return "open", oct(mode)


@topic
def filesystem(side):
    """statfs: how large it is is its own, that it is full and read-only is not."""
    for path in (b".", b"files", b"files/513", b"links/file"):
        found = os.statvfs(path)
        side.note("statvfs f_namemax", path, found.f_namemax)
        side.note("statvfs f_flag", path, found.f_flag & (os.ST_RDONLY | os.ST_NOSUID | os.ST_NODEV | os.ST_NOEXEC))
        for name in ("f_bsize", "f_frsize"):
            size = getattr(found, name)
            side.must(f"{name} is a power of two", path, size >= 512 and size.bit_count() == 1, True)
        side.must("0 <= f_bavail <= f_bfree <= f_blocks", path,
                  0 <= found.f_bavail <= found.f_bfree <= found.f_blocks != 0, True)
        side.must("no room", path, found.f_bfree, found.f_bfree if side.kind == "disk" else 0)
        used = found.f_files - found.f_ffree  # of 2^64 - 1 with EROFS
        inodes = {attempt(lambda: os.lstat(entry.path).st_ino) for entry in side.tree}
        side.must("a file for each inode", path, used >= len(inodes), True)
        with opened(path) as fd:  # the numbers of what is free change under us on the disk
            other = os.fstatvfs(fd)
            side.must("fstatvfs", path, (other.f_bsize, other.f_blocks, other.f_files, other.f_flag, other.f_namemax),
                      (found.f_bsize, found.f_blocks, found.f_files, found.f_flag, found.f_namemax))
    for path in (b"files/absent", b"files/1/below", b"links/self", b"links/dangling"):
        side.call("statvfs", path, os.statvfs, path)
