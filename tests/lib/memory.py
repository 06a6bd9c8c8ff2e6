#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""memory.py PID TEXT...: how often each text is in the memory that the process may write, as "COUNT TEXT" a line.
With --where before it, each place, too: the mapping and what is around."""
import re
import sys


def writable(pid):
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", 0) as memory:
        for line in maps:
            place, rights, _, _, _, *name = line.split(maxsplit=5)
            if "w" not in rights:
                continue
            begin, end = (int(x, 16) for x in place.split("-"))
            data = bytearray()
            while begin + len(data) < end:
                try:
                    memory.seek(begin + len(data))
                    part = memory.read(min(end - begin - len(data), 16 << 20))
                except OSError:
                    break  # the guard of a stack, a device
                if not part:
                    break
                data += part
            yield line.strip(), begin, bytes(data)


def main(pid, texts, where):
    counts = dict.fromkeys(texts, 0)
    for mapping, begin, data in writable(pid):
        for text in texts:
            for found in re.finditer(re.escape(text.encode()), data):
                counts[text] += 1
                if where:
                    near = data[max(0, found.start() - 60):found.end() + 60]
                    print(f"{begin + found.start():x} {mapping}\n    {near!r}", file=sys.stderr)
    for text, count in counts.items():
        print(count, text)


if __name__ == "__main__":
    arguments = [a for a in sys.argv[1:] if a != "--where"]
    main(arguments[0], arguments[1:], "--where" in sys.argv)
