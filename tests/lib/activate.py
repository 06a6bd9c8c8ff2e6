#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""A service manager for tests: holds listening sockets and runs one daemon on them, as systemd does.

  activate.py DIR [--env NAME=VALUE]... NAME=PATH... -- COMMAND...

Each PATH is a unix socket that is passed as NAME. COMMAND is started when somebody connects to one of
them, and again whenever it has ended and somebody connects. What it notifies is written to DIR/notified, a
line each with its pid; DIR/ready appears when the sockets are there.
"""
import ctypes
import os
import select
import signal
import socket
import sys

FIRST = 3


def listen(path):
    s = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    s.bind(path)
    os.chmod(path, 0o600)
    s.listen(256)
    return s


def spawn(command, sockets, environment):
    pid = os.fork()
    if pid:
        return pid
    # The daemon goes with its manager.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    high = [os.dup2(s.fileno(), 100 + i) for i, (_, s) in enumerate(sockets)]
    for i, fd in enumerate(high):
        os.dup2(fd, FIRST + i, inheritable=True)
    os.closerange(FIRST + len(high), 1000)
    environment = dict(environment, LISTEN_FDS=str(len(high)), LISTEN_PID=str(os.getpid()),
                       LISTEN_FDNAMES=":".join(name for name, _ in sockets))
    os.execve(command[0], command, environment)


def main():
    words = sys.argv[1:]
    cut = words.index("--")
    folder, options, command = words[0], words[1:cut], words[cut + 1:]
    environment = dict(os.environ)
    while options and options[0] == "--env":
        name, _, value = options[1].partition("=")
        environment[name] = value
        options = options[2:]
    sockets = [(name, listen(path)) for name, path in (word.split("=", 1) for word in options)]
    notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    notify.bind(folder + "/notify")
    environment["NOTIFY_SOCKET"] = folder + "/notify"
    log = open(folder + "/notified", "a", buffering=1)
    wake, woken = os.pipe()
    os.set_blocking(woken, False)
    signal.set_wakeup_fd(woken)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    open(folder + "/ready", "w").close()
    pid = 0
    while True:
        waited = [notify, wake] + ([] if pid else [s for _, s in sockets])
        ready, _, _ = select.select(waited, [], [])
        if notify in ready:
            text = notify.recv(65536).decode()
            log.write("".join(f"{pid} {line}\n" for line in text.split("\n")))
        if wake in ready:
            os.read(wake, 4096)
            gone, status = os.waitpid(-1, os.WNOHANG) if pid else (0, 0)
            if gone:
                log.write(f"{gone} ended {os.waitstatus_to_exitcode(status)}\n")
                pid = 0
        elif not pid and any(s in ready for _, s in sockets):
            pid = spawn(command, sockets, environment)
            log.write(f"{pid} started\n")


if __name__ == "__main__":
    main()
