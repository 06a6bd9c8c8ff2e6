# SPDX-License-Identifier: Apache-2.0
"""What files do: reading in every way, mappings, events, locks, FIFOs and devices."""
import errno
import fcntl
import hashlib
import mmap
import os
import random
import select
import signal
import struct

import calls
from calls import Mapping, attempt, call
from check_rights import opened_for, run
from side import ANYWHERE, PAGE, SECONDS, become, brief, ended, in_child, in_threads, no_fsync, opened, topic


# ---- reading

def offsets(size):
    near = {0, 1, 511, 512, 4095, 4096, 4097, size // 2, size - 4096, size - 1, size, size + 1, size + 4096}
    far = {(1 << 31) - 1, 1 << 31, 1 << 32, (1 << 32) + 4090, 1 << 40, 1 << 62, (1 << 63) - 1}
    return sorted(offset for offset in near | far if offset >= 0)


@topic
def reading(side):
    for path, size in side.files():
        if not side.opens(path):
            continue
        with opened(path) as fd:
            pread = lambda count, offset: brief(os.pread(fd, count, offset))
            for offset in offsets(size):
                for count in (1, 4096, 70001):
                    side.call(f"pread of {count} at {offset}", path, pread, count, offset)
            side.call("pread of nothing", path, pread, 0, 0)
            side.call("pread at -1", path, pread, 1, -1)
            side.call("pread into nowhere", path, call, "pread", fd, 8, 100, 0)
            side.call("preadv", path, vectors, fd, size)
            side.call("seek to -1", path, os.lseek, fd, -1, os.SEEK_SET)
            side.call("seek to 1 before the end", path, os.lseek, fd, -1, os.SEEK_END)
            side.call("read there", path, lambda: brief(os.read(fd, 10)))
            side.call("seek to 10 after the end", path, os.lseek, fd, 10, os.SEEK_END)
            side.call("read there, after the end", path, lambda: brief(os.read(fd, 10)))
            side.call("FIONREAD there", path, ioctl_int, fd, 0x541B)
            side.call("seek by no way there is", path, os.lseek, fd, 0, 9)
            side.call("write", path, os.write, fd, b"x")
            side.call("pwrite", path, os.pwrite, fd, b"x", 0)
            side.call("isatty", path, ioctl_int, fd, 0x5401)
            if size <= 1 << 24:
                os.lseek(fd, 0, os.SEEK_SET)
                side.call("read in odd pieces", path, sequential, fd, 40009)
                without_waiting(side, path, fd, size)
            else:
                os.lseek(fd, (1 << 31) - 1000, os.SEEK_SET)
                side.call("read across 2 GiB", path, lambda: brief(os.read(fd, 5000)))
                os.lseek(fd, (1 << 32) - 1000, os.SEEK_SET)
                side.call("read across 4 GiB", path, lambda: brief(os.read(fd, 100000)))
        direct(side, path, size)


def ioctl_int(fd, request):
    return struct.unpack("i", fcntl.ioctl(fd, request, b"\0" * 4 if request == 0x541B else b"\0" * 64)[:4])


def vectors(fd, size):
    parts = [bytearray(7), bytearray(4096), bytearray(1)]
    got = os.preadv(fd, parts, max(size - 5000, 0))
    return got, brief(b"".join(parts))


def sequential(fd, piece):
    sha, size = hashlib.sha1(), 0
    while data := os.read(fd, piece):
        sha.update(data)
        size += len(data)
    return size, sha.hexdigest()


def without_waiting(side, path, fd, size):
    # What is not at hand, or may not be asked for so, is no error; other data than the file's would be.
    buffer = bytearray(5000)
    got = attempt(os.preadv, fd, [buffer], max(size - 4500, 0), os.RWF_NOWAIT)
    right = isinstance(got, str) and got in ("EAGAIN", "EOPNOTSUPP")
    if not right:
        right = bytes(buffer[:got]) == os.pread(fd, got, max(size - 4500, 0))
    side.must("preadv2 RWF_NOWAIT", path, right or got, True)


def direct(side, path, size):
    # EROFS over files reads through the page cache only, and says so; then the same must come without the flag.
    fd = attempt(os.open, path, os.O_RDONLY | os.O_DIRECT)
    side.note("open O_DIRECT", path, fd if isinstance(fd, str) else "open",
              accept=[("open", "EINVAL")] if side.kind == "kernel" else [])
    if isinstance(fd, str):
        fd = os.open(path, os.O_RDONLY)
    memory = memoryview(mmap.mmap(-1, 1 << 20))

    def read(offset, count, shift=0):
        got = os.preadv(fd, [memory[shift:shift + count]], offset)
        return brief(bytes(memory[shift:shift + got]))
    last = size // PAGE * PAGE
    for offset in sorted({0, PAGE, max(last - PAGE, 0), last, last + PAGE, 1 << 40}):
        for count in (PAGE, 1 << 18):
            side.call(f"O_DIRECT read of {count} at {offset}", path, read, offset, count)
    # What must be aligned is the disk's; a file system without one may read everything.
    with opened(path) as plain:
        for offset, count, shift in ((1, PAGE, 0), (512, 512, 0), (0, 1000, 0), (0, PAGE, 1), (size // 2, 77, 3)):
            truth = brief(os.pread(plain, count, offset))
            side.call(f"O_DIRECT read of {count} at {offset} into memory off by {shift}", path, read, offset, count,
                      shift, accept=[("EINVAL", truth)])
    os.close(fd)


@topic
def mapping(side):
    shared, private = mmap.MAP_SHARED, mmap.MAP_PRIVATE
    read, write, execute = mmap.PROT_READ, mmap.PROT_WRITE, mmap.PROT_EXEC
    for path, size in side.files():
        if not side.opens(path):
            continue
        with opened(path) as fd:
            length = min(size, 1 << 24)
            pages = -(-length // PAGE) * PAGE
            for name, flags in (("MAP_SHARED", shared), ("MAP_PRIVATE", private), ("MAP_POPULATE", shared | 0x8000)):
                side.call(f"mmap {name}", path, mapped, fd, length, read, flags)
            side.call("mmap of its own pages", path, private_copy, fd, length)
            side.call("mmap MAP_SHARED to write", path, mapped, fd, length, read | write, shared)
            side.call("mmap PROT_EXEC", path, mapped, fd, length, read | execute, private)
            side.call("mmap at 100", path, mapped, fd, length, read, shared, 100)
            if length > PAGE:
                side.call("mmap at the second page", path, mapped, fd, length - PAGE, read, private, PAGE)
            side.call("mmap MAP_SYNC", path, mapped, fd, length, read, 0x3 | 0x80000)
            side.call("mprotect of a shared mapping", path, on_mapping, fd, length, shared, "mprotect", read | write)
            for advice in (0, 1, 2, 3, 4, 9, 16):
                side.call(f"madvise {advice}", path, on_mapping, fd, length, shared, "madvise", advice)
            for flag in (2, 4):
                side.call(f"msync {flag}", path, on_mapping, fd, length, shared, "msync", flag)
            if 0 < size <= 1 << 24:
                side.call("rest of the last page", path, rest_of_page, fd, length)
                side.note("byte after the last page", path, ended(lambda: touch(fd, pages + PAGE, pages)))
                side.note("byte far after the end", path, ended(lambda: touch(fd, PAGE, 0, 1 << 40)))
            elif size == 0:
                side.note("byte of an empty file", path, ended(lambda: touch(fd, PAGE, 0)))
            else:
                for at in ((1 << 31) - PAGE, (1 << 32), (size - 1) // PAGE * PAGE):
                    side.call(f"mmap at {at}", path, mapped, fd, PAGE, read, shared, at)
                after = -(-size // PAGE) * PAGE
                side.note("byte after the last page", path, ended(lambda: touch(fd, PAGE, 0, after)))
    for path in [entry.path for entry in side.entries("dp", 1, 4)]:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        side.call("mmap", path, mapped, fd, PAGE, read, shared)
        os.close(fd)


def mapped(fd, size, protection, flags, offset=0):
    area = Mapping(fd, size, protection, flags, offset)
    data = brief(area.read(0, size))
    area.close()
    return data


def private_copy(fd, size):
    area = Mapping(fd, size, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE)
    middle = size // 2
    area.write(middle, b"!" * min(100, size - middle))
    seen = brief(area.read(0, size))
    area.close()
    return seen, brief(os.pread(fd, size, 0)), mapped(fd, size, mmap.PROT_READ, mmap.MAP_SHARED)


def on_mapping(fd, size, flags, name, *arguments):
    area = Mapping(fd, size, mmap.PROT_READ, flags)
    try:
        area.call(name, *arguments)
        return brief(area.read(0, size))
    finally:
        area.close()


def rest_of_page(fd, size):
    area = Mapping(fd, size, mmap.PROT_READ, mmap.MAP_SHARED)
    rest = area.read(size, -size % PAGE)
    area.close()
    return len(rest), rest.strip(b"\0")


def touch(fd, length, at, offset=0):
    area = Mapping(fd, length, mmap.PROT_READ, mmap.MAP_SHARED, offset)
    return area.read(at, 1)[0] & 0x3f


@topic
def transfer(side):
    for path, size in side.files():
        if not side.opens(path):
            continue
        length = min(size, 1 << 20)
        with opened(path) as fd:
            for offset in sorted({0, 1, max(size - 1000, 0), size, size + 5, -1}):
                side.call(f"sendfile from {offset}", path, sent, fd, offset, length)
                side.call(f"splice from {offset}", path, spliced, fd, offset)
                side.call(f"copy_file_range from {offset}", path, copied, fd, offset, length)
                # Within one file system the kernel copies; across two it says EXDEV, and cp reads and writes.
                accept = [(attempt(beside, fd, offset, length), "EXDEV"), ("EOVERFLOW", "EXDEV")]
                side.call(f"copy_file_range to the disk from {offset}", path, copied, fd, offset, length,
                          ANYWHERE["scratch"], accept=accept)
            side.call("copy_file_range onto itself", path, os.copy_file_range, fd, fd, 10)
            side.call("sendfile to it", path, os.sendfile, fd, fd, 0, 10)
            for advice in range(7):
                side.call(f"posix_fadvise {advice}", path, os.posix_fadvise, fd, 0, length, advice)
            side.call("posix_fadvise of a negative length", path, os.posix_fadvise, fd, 0, -1, 3)
            for offset in sorted({0, size // 2, size + 10, -1}):
                side.call(f"readahead at {offset}", path, call, "readahead", fd, offset, 1 << 20)
            side.call("content after advice", path, lambda: brief(os.pread(fd, length, 0)))
            polled(side, path, fd)
            side.call("fsync", path, os.fsync, fd, accept=no_fsync(side))
            side.call("fdatasync", path, os.fdatasync, fd, accept=no_fsync(side))
            side.call("syncfs", path, call, "syncfs", fd)
            side.call("F_GETFL", path, fcntl.fcntl, fd, fcntl.F_GETFL)
        if 0 < size:
            side.must("SEEK_DATA and SEEK_HOLE", path, holes(path, size), "right")
        with opened(path) as fd:
            for name, whence in (("SEEK_DATA", os.SEEK_DATA), ("SEEK_HOLE", os.SEEK_HOLE)):
                for offset in (size, size + 1, 1 << 50, -1):
                    side.call(f"{name} at {offset}", path, os.lseek, fd, offset, whence)


def sent(fd, offset, length):
    out = os.memfd_create("out")
    try:
        total = 0
        while got := os.sendfile(out, fd, offset + total, length - total):
            total += got
        return brief(os.pread(out, total + 1, 0))
    finally:
        os.close(out)


def spliced(fd, offset):
    end, begin = os.pipe()
    try:
        got = os.splice(fd, begin, 16384, offset_src=offset)
        return brief(os.read(end, got)) if got else b""
    finally:
        os.close(end)
        os.close(begin)


def copied(fd, offset, length, directory=None):
    if directory is None:
        out = os.memfd_create("out")
    else:
        out = os.open("copy", os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600, dir_fd=directory)
    try:
        total = 0
        while total < length and (got := os.copy_file_range(fd, out, length - total, offset + total, total)):
            total += got
        return brief(os.pread(out, total + 1, 0))
    finally:
        os.close(out)


def beside(fd, offset, length):
    return brief(os.pread(fd, length, offset))


def polled(side, path, fd):
    found = select.poll()
    found.register(fd, select.POLLIN | select.POLLOUT)
    side.note("poll", path, [event for _, event in found.poll(0)])
    with select.epoll() as events:
        # The kernel's FUSE has a poll of its own for every file, so epoll takes it, and finds it ready.
        side.call("epoll_ctl", path, events.register, fd, select.EPOLLIN,
                  accept=[("EPERM", None)] if side.kind == "fuse" else [])


def holes(path, size):
    """Data and holes take turns up to the end, and every hole is zeros: also one run of data is right."""
    with opened(path) as fd:
        at = 0
        while at < size:
            try:
                data = os.lseek(fd, at, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                data = size
            if data < at or not zeros(fd, at, data):
                return f"the hole at {at} up to {data} has data"
            if data == size:
                return "right"
            at = os.lseek(fd, data, os.SEEK_HOLE)
            if at <= data or at > size:
                return f"data at {data} ends at {at}"
        if size > 1 << 24:  # the known places, where the disk has data
            return "right"
        for offset in range(0, size, size // 20 + 1):
            if os.lseek(fd, offset, os.SEEK_HOLE) < offset:
                return f"the hole after {offset} is before it"
    return "right"


def zeros(fd, begin, end):
    """Whether it is all zeros; of a long run its ends, and where the image has data."""
    if end - begin <= 1 << 24:
        return not os.pread(fd, end - begin, begin).strip(b"\0")
    places = [begin, end - 4096, (1 << 31) - 512, (1 << 32) + 4096]
    return not any(os.pread(fd, 4096, place).strip(b"\0") for place in places if begin <= place <= end - 4096)


@topic
def threads(side):
    """Readers at random offsets see what one reader sees, also when the page cache is dropped under them."""
    for path, size in sorted(side.files(1 << 26), key=lambda f: -f[1])[:2]:
        with opened(path) as fd:
            truth = os.pread(fd, size, 0)
            side.note("whole", path, brief(truth))
            shared = Mapping(fd, size, mmap.PROT_READ, mmap.MAP_SHARED)

            def read(number):
                rng, wrong = random.Random(number), 0
                own = fd if number % 2 else os.open(path, os.O_RDONLY)
                for turn in range(250):
                    offset, count = rng.randrange(size + 100), rng.choice((1, 100, 4096, 50000, 200000))
                    right = truth[offset:offset + count]
                    wrong += os.pread(own, count, offset) != right
                    wrong += shared.read(offset, len(right)) != right
                    if turn % 25 == 24:
                        os.posix_fadvise(own, 0, 0, os.POSIX_FADV_DONTNEED)
                if own != fd:
                    os.close(own)
                return wrong
            side.must("16 threads at random offsets", path, sum(in_threads(16, read)), 0)
            shared.close()


# ---- events, locks, FIFOs, devices

@topic
def events(side):
    for watched, path in ((b"files/513", b"files/513"), (b"files", b"files/513"), (b"links", b"links/file"),
                          (b"hard/a", b"hard/b"), (b"odd", b"odd"), (b"bin/prog", b"bin/prog"),
                          (b"files", b"files/absent")):
        for mask in (calls.IN_ALL_EVENTS, calls.IN_ACCESS, calls.IN_OPEN | calls.IN_CLOSE_NOWRITE):
            side.note(f"inotify of {watched} with {mask:#x}", path, watch(watched, path, mask))
    for path in (b"files/absent", b"files/1/below", b"links/self", b"links/file"):
        for mask in (calls.IN_ALL_EVENTS, calls.IN_ALL_EVENTS | 0x02000000, calls.IN_ALL_EVENTS | 0x01000000, 0):
            side.call(f"inotify_add_watch {mask:#x}", path, lambda: watch(path, b"files/1", mask))


def watch(watched, path, mask):
    """What one is told of opening, reading, listing, two writes that are refused, closing, and running a program."""
    fd = call("inotify_init1", os.O_NONBLOCK)
    try:
        call("inotify_add_watch", fd, watched, mask)
        if isinstance(used := attempt(os.open, path, os.O_RDONLY), str):
            return used, read_events(fd)
        attempt(os.read, used, 10)
        attempt(os.pread, used, 10, 3)
        attempt(os.listdir, used)
        attempt(os.chmod, path, 0o600)
        attempt(os.open, path, os.O_WRONLY)
        attempt(os.stat, path)
        os.close(used)
        if path == b"bin/prog":
            ended(lambda: run(path, 0, 0))
        return read_events(fd)
    finally:
        os.close(fd)


def read_events(fd):
    raw, events, at = attempt(os.read, fd, 65536), [], 0
    while not isinstance(raw, str) and at < len(raw):
        _, mask, _, length = struct.unpack_from("iIII", raw, at)
        events.append((hex(mask), raw[at + 16:at + 16 + length].rstrip(b"\0")))
        at += 16 + length
    return events or raw


@topic
def locks(side):
    for path in (b"files/513", b"links/file", b"hard/b", b"odd/dir", b"special/fifo"):
        one, two = (os.open(path, os.O_RDONLY | os.O_NONBLOCK) for _ in range(2))
        shared, exclusive, none = fcntl.LOCK_SH | fcntl.LOCK_NB, fcntl.LOCK_EX | fcntl.LOCK_NB, fcntl.LOCK_UN
        steps = ((one, shared), (two, shared), (two, exclusive), (one, none), (two, exclusive), (one, shared),
                 (one, exclusive), (two, none), (one, exclusive))
        for step, (fd, how) in enumerate(steps):
            side.call(f"flock {step}: {how} by {'one' if fd == one else 'two'}", path, fcntl.flock, fd, how)
        side.note("flock held by another process", path, ended(lambda: fcntl.flock(reopen(path), shared)))
        fcntl.flock(one, none)
        side.note("flock held by nobody", path, ended(lambda: fcntl.flock(reopen(path), shared)))
        read_lock, write_lock, unlock = fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK
        for kind, name in ((fcntl.F_SETLK, "fcntl"), (calls.F_OFD_SETLK, "OFD")):
            test = fcntl.F_GETLK if kind == fcntl.F_SETLK else calls.F_OFD_GETLK
            side.call(f"{name} read lock", path, calls.lock, one, kind, read_lock, 10, 20)
            side.call(f"{name} read lock of another descriptor", path, calls.lock, two, kind, read_lock, 0, 15)
            side.call(f"{name} write lock without the right to write", path, calls.lock, two, kind, write_lock, 0, 5)
            side.call(f"{name} lock in the way", path, calls.lock, two, test, write_lock, 12, 1)
            other = lambda *arguments: in_child(lambda: attempt(calls.lock, reopen(path), *arguments))
            side.note(f"{name} locks seen by another process", path, other(test, write_lock, 0, 0))
            side.note(f"{name} read lock of another process", path, other(kind, read_lock, 0, 0))
            side.call(f"{name} lock to the end", path, calls.lock, one, kind, read_lock, 100, 0)
            side.call(f"{name} lock from -1", path, calls.lock, one, kind, read_lock, -1, 1)
            side.call(f"{name} unlock", path, calls.lock, one, kind, unlock, 0, 0)
            side.call(f"{name} unlock of the other", path, calls.lock, two, kind, unlock, 0, 0)
            side.call(f"{name} nothing in the way", path, calls.lock, two, test, write_lock, 12, 1)
        os.close(two)
        for step, lease in enumerate((fcntl.F_RDLCK, fcntl.F_UNLCK, fcntl.F_WRLCK, fcntl.F_UNLCK)):
            side.call(f"F_SETLEASE {step}", path, fcntl.fcntl, one, fcntl.F_SETLEASE, lease)
            side.call(f"F_GETLEASE {step}", path, fcntl.fcntl, one, fcntl.F_GETLEASE)
        os.close(one)


def reopen(path):
    return os.open(path, os.O_RDONLY | os.O_NONBLOCK)


@topic
def special(side):
    """FIFOs pass bytes, devices are the kernel's."""
    fifo, other = b"special/fifo", b"special/fifo2"
    side.call("open O_WRONLY without a reader", fifo, opened_for, fifo, os.O_WRONLY)
    side.call("open O_RDWR", fifo, opened_for, fifo, os.O_RDWR)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    side.call("read without a writer", fifo, os.read, reader, 10)
    writer = os.open(other, os.O_WRONLY | os.O_NONBLOCK)  # a hard link is the same FIFO
    side.call("read of nothing", fifo, os.read, reader, 10)
    side.call("write", fifo, os.write, writer, b"through")
    side.call("FIONREAD", fifo, ioctl_int, reader, 0x541B)
    side.call("read", fifo, os.read, reader, 10)
    side.call("lseek", fifo, os.lseek, reader, 0, os.SEEK_SET)
    side.call("pread", fifo, os.pread, reader, 1, 0)
    side.call("posix_fadvise", fifo, os.posix_fadvise, reader, 0, 1, 3)
    side.call("F_GETPIPE_SZ", fifo, fcntl.fcntl, reader, 1032)
    side.call("splice to it", fifo, splice_file, writer)
    side.call("read of what was spliced", fifo, lambda: brief(os.read(reader, 1000)))
    os.close(reader)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    side.note("SIGPIPE", fifo, ended(lambda: os.write(writer, b"x")))
    os.close(writer)
    child = os.fork()
    if child == 0:
        signal.alarm(SECONDS)
        with open(fifo, "wb") as f:  # waits for the reader
            f.write(b"from a child")
        os._exit(0)
    with open(other, "rb") as f:
        side.note("open that waits for the other end", fifo, f.read())
    os.waitpid(child, 0)
    for path, flags in ((b"special/null", os.O_RDWR), (b"special/zero", os.O_RDONLY), (b"special/closed", os.O_RDONLY),
                        (b"special/nobody", os.O_RDWR)):
        side.call("open of a device", path, use_device, path, flags)
        for uid in (1000, 65534):
            side.note(f"open of a device as {uid}", path, in_child(lambda: use_device_as(uid, path, flags)))


def splice_file(fd):
    with opened(b"files/513") as source:
        return os.splice(source, fd, 513, offset_src=0)


def use_device(path, flags):
    with opened(path, flags) as fd:
        st = os.fstat(fd)
        written, end = attempt(os.write, fd, b"gone"), attempt(os.lseek, fd, 0, os.SEEK_END)
        return oct(st.st_mode), st.st_rdev, os.read(fd, 4), written, end


def use_device_as(uid, path, flags):
    become(uid, uid)
    return attempt(use_device, path, flags)
