# SPDX-License-Identifier: Apache-2.0
"""Processes of a benchmark: started, waited for, measured, ended."""
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
