# SPDX-License-Identifier: Apache-2.0
"""Processes of a benchmark: started, waited for, measured, ended."""
import ctypes
import os
import signal
import subprocess
import time


def wait_for(condition, seconds, what):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit(f"bench: {what} did not happen in {seconds} s")
        time.sleep(0.02)


def cpu_of(pid):
    """CPU seconds of a process and of its children that ended."""
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return sum(int(fields[i]) for i in (11, 12, 13, 14)) / os.sysconf("SC_CLK_TCK")


def status_of(pid, key):
    for line in open(f"/proc/{pid}/status"):
        if line.startswith(key + ":"):
            return int(line.split()[1]) / 1024  # MiB
    return 0.0


def timed(command, **kw):
    """Runs a command; (seconds, CPU seconds, peak MiB of its largest process)."""
    begin = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, **kw)
    error = process.stderr.read()
    _, status, usage = os.wait4(process.pid, 0)
    took = time.monotonic() - begin
    if status != 0:
        raise SystemExit(f"bench: {' '.join(map(str, command))}: {error.decode()[-600:]}")
    return took, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def mounts_below(path):
    found = [line.split()[4] for line in open("/proc/self/mountinfo")]
    return sorted((m for m in found if m == path or m.startswith(path + "/")), reverse=True)


class Daemon:
    """A process of ours, stopped at the end."""

    def __init__(self, command, log, env=None):
        self.log = open(log, "wb")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, env=env)

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Foreign:
    """How much processor time other programs took meanwhile: a run during which they took much says little.

    Only time in user mode counts, since what the kernel does for us (writing back, the loopback device) cannot be
    told from what it does for others. `own` returns the processes of the benchmark that are not its children or
    whose time has not been added to it yet.
    """

    LIMIT = 0.1  # of one processor

    def __init__(self, own):
        self.own = own
        self.begin = self._now()

    @staticmethod
    def _user(pid):
        try:
            fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
        except OSError:
            return 0
        return (int(fields[11]) + int(fields[13])) / os.sysconf("SC_CLK_TCK")

    def _now(self):
        user, nice = (int(n) for n in open("/proc/stat").readline().split()[1:3])
        times = os.times()
        return {"at": time.monotonic(), "all": (user + nice) / os.sysconf("SC_CLK_TCK"),
                "children": times.user + times.children_user, "own": {pid: self._user(pid) for pid in self.own()}}

    def share(self):
        """Processors that others used since the beginning."""
        now = self._now()
        own = sum(user - self.begin["own"].get(pid, 0) for pid, user in now["own"].items())
        others = now["all"] - self.begin["all"] - own - (now["children"] - self.begin["children"])
        return max(0.0, others / (now["at"] - self.begin["at"]))


def adopt(on):
    """Whether what a process of ours leaves behind becomes our child, so that its processor time can be counted."""
    PR_SET_CHILD_SUBREAPER = 36
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, int(on), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl")


def reap(name, seconds=5):
    """Waits for the adopted children of that name: their time is our children's from then on."""
    def stat(pid):
        try:
            return open(f"/proc/{pid}/stat").read()
        except OSError:
            return ""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        text = stat(pid)
        if f"({name})" not in text or int(text.rsplit(")", 1)[1].split()[1]) != os.getpid():
            continue
        wait_for(lambda: os.waitpid(int(pid), os.WNOHANG)[0] != 0, seconds, f"end of {name}")


class Repeats:
    """Whether a run that other programs disturbed is made again: so many times altogether."""

    def __init__(self, left):
        self.left = left

    def again(self, foreign):
        if foreign <= Foreign.LIMIT or self.left == 0:
            return False
        self.left -= 1
        return True
