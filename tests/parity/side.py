# SPDX-License-Identifier: Apache-2.0
"""What the checks stand on: one side of the comparison, and ways to do something apart."""
import faulthandler
import hashlib
import mmap
import os
import pickle
import signal
import stat
import sys
import threading

from calls import attempt

SECONDS = 90  # for one child; a hang is told before the test runner gives up
TOPICS = {}
ANYWHERE = {}  # what a visitor opened before the tree became its root
PAGE = mmap.PAGESIZE
BROKEN = 99  # exit status of a child whose check is at fault


def topic(function):
    TOPICS[function.__name__] = function
    return function


def before_chroot(side):
    with opened(side.root) as fd:
        writable = not os.fstatvfs(fd).f_flag & os.ST_RDONLY
    if writable:
        raise SystemExit(f"{side.root} is not read-only: the checks try every kind of write")
    ANYWHERE["scratch"] = os.open(side.scratch, os.O_RDONLY)


# The read-only mount of the disk has a file system behind it that could be written; of one that could not, the kernel
# says so before it looks at the permissions.
READ_ONLY_FIRST = [("EACCES", "EROFS")]


def no_fsync(side):
    # Read-only file systems of the kernel do not all have the call, and there is nothing to sync.
    return [(None, "EINVAL")] if side.kind == "kernel" else []


def brief(data):
    return data if len(data) <= 24 else f"{len(data)} bytes {hashlib.sha1(data).hexdigest()[:12]}"


def ended(function):
    """How a child ends that runs the function: with what it returns, 100 and its error, or minus the signal."""
    child = os.fork()
    if child == 0:
        status = BROKEN
        try:
            signal.alarm(SECONDS)
            faulthandler.disable()  # a signal is an answer here
            status = function() or 0
        except OSError as error:
            status = 100 + error.errno
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status == BROKEN:
        raise ChildProcessError("a child of a visitor failed")
    return status


class opened:
    """A descriptor for the length of a `with`."""

    def __init__(self, path, flags=os.O_RDONLY, **named):
        self.fd = os.open(path, flags, **named)

    def __enter__(self):
        return self.fd

    def __exit__(self, *_):
        os.close(self.fd)


def in_threads(count, function):
    """What `count` threads return that run it at once."""
    results, gate = [None] * count, threading.Barrier(count)

    def run(number):
        gate.wait()
        results[number] = function(number)
    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def become(uid, gid, groups=()):
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


class Side:
    """One tree as its visitor sees it: what there is to visit, and the answers noted so far."""

    def __init__(self, kind, root, tree, loose, scratch):
        self.kind, self.root, self.tree, self.loose, self.scratch = kind, root, tree, loose, scratch
        self.bare = not any(entry.has_xattrs for entry in tree)
        self.topic = self.prefix = ""
        self.notes = {}  # (call, path): (answer, accepted pairs)
        self.wrong = []  # what needs no other side to be wrong

    def note(self, call, path, answer, accept=()):
        """`accept`: pairs (answer of the disk, answer of the mount) that are right as well."""
        key = (f"{self.topic}: {self.prefix}{call}", path)
        if key in self.notes:
            raise AssertionError(f"noted twice, so that one would hide the other: {key}")
        self.notes[key] = answer, tuple(accept)

    def call(self, call, path, function, *arguments, accept=(), **named):
        answer = attempt(function, *arguments, **named)
        self.note(call, path, answer, accept)
        return answer

    def must(self, call, path, answer, right):
        self.note(call, path, "right" if answer == right else "wrong")
        if answer != right:
            self.wrong.append((f"{self.topic}: {self.prefix}{call}", path, answer, right))

    def entries(self, kinds, each, limit):
        """Those of these types: of a directory up to `each`, and up to `limit` of all, always the same ones."""
        directories = {}
        for entry in self.tree:
            if entry.kind in kinds:
                directories.setdefault(os.path.dirname(entry.path), []).append(entry)
        found = [entry for held in directories.values() for entry in held[::-(-len(held) // each)]]
        return found[::-(-len(found) // limit)] if found else []

    def opens(self, path):
        """Whether it can be read at all; that it cannot is noted, and the rest of the topic is about other paths."""
        fd = attempt(os.open, path, os.O_RDONLY | os.O_NONBLOCK)
        self.note("open", path, fd if isinstance(fd, str) else "open")
        if not isinstance(fd, str):
            os.close(fd)
        return not isinstance(fd, str)

    def paths(self, kinds="fdlpcb", each=60, limit=700):
        return [entry.path for entry in self.entries(kinds, each, limit)]

    def files(self, limit_bytes=1 << 40):
        """[(path, size)] of regular files up to that size."""
        return [(entry.path, entry.size) for entry in self.entries("f", 15, 200) if entry.size <= limit_bytes]

    def apart(self, function, *arguments):
        """Runs the function in a child, which may change its identity; its notes become ours."""
        def visit():
            self.notes, self.wrong = {}, []
            function(*arguments)
            return self.notes, self.wrong
        notes, wrong = in_child(visit)
        self.notes.update(notes)
        self.wrong += wrong


class Entry:
    KINDS = {stat.S_IFREG: "f", stat.S_IFDIR: "d", stat.S_IFLNK: "l", stat.S_IFIFO: "p", stat.S_IFCHR: "c",
             stat.S_IFBLK: "b"}

    def __init__(self, root, path):
        st = os.lstat(root + b"/" + path)
        self.path, self.kind, self.size = path, self.KINDS[stat.S_IFMT(st.st_mode)], st.st_size
        self.has_xattrs = bool(os.listxattr(root + b"/" + path, follow_symlinks=False))


def entries(root):
    """Every path of the tree, relative; the root is "."."""
    found, todo = [Entry(root, b".")], [b""]
    while todo:
        directory = todo.pop()
        for name in sorted(os.listdir(root + b"/" + directory)):
            entry = Entry(root, directory + name)
            found.append(entry)
            if entry.kind == "d":
                todo.append(entry.path + b"/")
    return found


def in_child(function):
    """What the function returns, computed by a child."""
    end, begin = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        status = 1
        try:
            os.close(end)
            signal.alarm(SECONDS)
            answer = pickle.dumps(function())
            with open(begin, "wb") as f:
                f.write(answer)
            status = 0
        except BaseException:
            sys.excepthook(*sys.exc_info())
        finally:
            sys.stderr.flush()
            os._exit(status)
    os.close(begin)
    with open(end, "rb") as f:
        answer = f.read()
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status != 0:
        raise ChildProcessError(f"a visitor ended with {status}")
    return pickle.loads(answer)
