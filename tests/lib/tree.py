#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""Reads a mounted file tree through system calls and compares it with another one.

  tree.py compare EXPECTED ACTUAL [META.json] [--loose-root] [--but-expected] [--marked] [--disarmed]
  tree.py expect ACTUAL META.json      checks META's "expect" list only
  tree.py dump DIR                     one line a file
--but-expected: EXPECTED may be wrong in the very fields that META's "expect" names.
--marked: ACTUAL is made of layers that the kernel shows, whose indexes say which directories no tar has.
--disarmed: ACTUAL is shown by an index that is not proven yet: EXPECTED without device numbers, security.* and the like.
Compared: names, type, permissions, owner, modification time in ns (not of the root and of META's
"loose" directories), size and SHA-256 of regular files, targets of symbolic links, device numbers,
extended attributes, which names are hard links of one another, and the link counts: of the visible
names, since overlayfs shows those of the layer.
"""
import hashlib
import json
import os
import stat
import sys


def digest(path):
    sha = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            sha.update(block)
    return sha.hexdigest()


def xattrs(path):
    result = {}
    try:
        for name in os.listxattr(path, follow_symlinks=False):
            if not name.startswith(("trusted.overlay.", "user.overlay.")):
                result[name] = os.getxattr(path, name, follow_symlinks=False).hex()
    except OSError as error:
        if error.errno != 95:
            raise
    return result


def read_tree(root):
    """{relative path: attributes}; iterative, since trees may be deep."""
    root = os.fsencode(root)
    tree, groups, todo = {}, {}, [b""]
    while todo:
        relative = todo.pop()
        path = root + b"/" + relative if relative else root
        try:
            st = os.lstat(path)
        except FileNotFoundError:
            if not relative:
                raise
            tree[os.fsdecode(relative)] = {"listed": "but not there"}
            continue
        entry = {"type": stat.S_IFMT(st.st_mode), "mode": oct(stat.S_IMODE(st.st_mode)), "uid": st.st_uid,
                 "gid": st.st_gid, "mtime_ns": st.st_mtime_ns, "xattrs": xattrs(path)}
        if stat.S_ISREG(st.st_mode):
            entry["size"] = st.st_size
            entry["sha256"] = digest(path)
        elif stat.S_ISLNK(st.st_mode):
            entry["size"] = st.st_size
            entry["target"] = os.fsdecode(os.readlink(path))
        elif stat.S_ISCHR(st.st_mode) or stat.S_ISBLK(st.st_mode):
            entry["rdev"] = [os.major(st.st_rdev), os.minor(st.st_rdev)]
        if stat.S_ISDIR(st.st_mode):
            names = os.listdir(path)
            if len(set(names)) != len(names):
                entry["listed"] = "with a name twice"
            todo += [relative + b"/" + name if relative else name for name in names]
        else:
            entry["nlink"] = st.st_nlink
            groups.setdefault((st.st_dev, st.st_ino), []).append(os.fsdecode(relative))
        tree[os.fsdecode(relative)] = entry
    for names in groups.values():
        names.sort()
        for name in names:
            tree[name]["links"] = names
    return tree


def compare(expected, actual, loose, loose_root, disputed, limit=20):
    lines = []
    if loose_root:  # runtimes do not agree on the attributes of the root itself
        for key in ("mode", "uid", "gid"):
            actual[""][key] = expected[""][key]
    for path in sorted(expected.keys() | actual.keys()):
        want, have = expected.get(path), actual.get(path)
        if path in disputed and disputed[path] is None:
            continue
        if have and "listed" in have:
            lines.append(f"{path!r}: listed {have['listed']}")
            continue
        if have is None or want is None:
            lines.append(f"{path!r}: {'missing' if have is None else 'should not be there'}")
            continue
        for key in sorted(want.keys() | have.keys()):
            a, b = want.get(key), have.get(key)
            if key == "mtime_ns" and (path == "" or path in loose) or key in disputed.get(path, {}):
                continue
            if key == "nlink":
                a = len(want["links"])
            if a != b:
                lines.append(f"{path!r}: {key} is {b!r}, should be {a!r}")
    for line in lines[:limit]:
        print(line)
    if len(lines) > limit:
        print(f"... and {len(lines) - limit} more differences")
    return not lines


def disarm(tree):
    for entry in tree.values():
        if stat.S_ISCHR(entry.get("type", 0)) or stat.S_ISBLK(entry.get("type", 0)):
            entry.update(type=stat.S_IFREG, mode="0o0", size=0, sha256=hashlib.sha256().hexdigest())
            entry.pop("rdev", None)
        for name in [n for n in entry.get("xattrs", {}) if n.startswith(("security.", "trusted.", "user.overlay."))]:
            del entry["xattrs"][name]
    return tree


def expect(actual, wanted):
    good = True
    for path, fields in wanted.items():
        have = actual.get(path)
        if fields is None:
            if have is not None:
                print(f"{path!r}: should not be there")
                good = False
            continue
        for key, value in fields.items():
            if have is None or have.get(key) != value:
                print(f"{path!r}: {key} is {have and have.get(key)!r}, should be {value!r}")
                good = False
    return good


def main(args):
    meta = {}
    loose_root, but_expected = "--loose-root" in args, "--but-expected" in args
    marked, disarmed = "--marked" in args, "--disarmed" in args
    args = [a for a in args if a not in ("--loose-root", "--but-expected", "--marked", "--disarmed")]
    if args[0] == "compare":
        if len(args) > 3:
            meta = json.load(open(args[3]))
        actual = read_tree(args[2])
        for entry in actual.values() if marked else ():
            entry["xattrs"].pop("trusted.imagefs.implied", None)
        wanted = disarm(read_tree(args[1])) if disarmed else read_tree(args[1])
        good = compare(wanted, actual, set(meta.get("loose", [])), loose_root,
                       meta.get("expect", {}) if but_expected else {})
    elif args[0] == "expect":
        good = expect(read_tree(args[1]), json.load(open(args[2])).get("expect", {}))
    else:
        for path, entry in sorted(read_tree(args[1]).items()):
            print(json.dumps([path, entry]))
        good = True
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main(sys.argv[1:])
