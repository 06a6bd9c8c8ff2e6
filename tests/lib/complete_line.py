#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""complete_line.py SHELL... -- LINE: what an interactive shell makes of LINE when Tab is pressed after it.

The shell runs on a terminal of its own. After the Tab the cursor goes to the start of the line, which becomes an
argument of printf, so that the shell itself prints what it has.
"""
import os, pty, re, select, sys, time

separator = sys.argv.index("--")
shell, line = sys.argv[1:separator], sys.argv[separator + 1]
pid, fd = pty.fork()
if pid == 0:
    os.environ["TERM"] = "dumb"
    os.execvp(shell[0], shell)
seen = b""


def wait_for(pattern, why):
    """Reads until the pattern comes, and returns the match."""
    global seen
    deadline = time.monotonic() + 60
    while not (match := re.search(pattern, seen)):
        if time.monotonic() > deadline:
            sys.exit(f"{why}: {seen!r}")
        if select.select([fd], [], [], 1)[0]:
            try:
                seen += os.read(fd, 65536)
            except OSError:
                sys.exit(f"{why}: the shell has ended: {seen!r}")
    seen = seen[match.end():]
    return match


os.write(fd, b"PS1=READY'> '; PROMPT=$PS1\n")
wait_for(rb"[\r\n]READY> ", "no prompt")
os.write(fd, line.encode() + b"\t" + b"\x01" + b"printf '%s\\n' BEGIN" + b" " + b"\x05" + b" END\n")
match = wait_for(rb"(?s)\nBEGIN\r?\n(.*?)\r?\nEND\r?\n", "no answer")
print(*match[1].decode().split("\r\n"))
os.write(fd, b"exit\n")
