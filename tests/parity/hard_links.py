#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""hard_links.py LAYOUT TREE: gives each file the attributes of its last hard link's entry, as the runtimes do and umoci
does not."""
import json
import os
import stat
import sys
import tarfile


def main(layout, tree):
    def read(digest):
        return json.load(open(f"{layout}/blobs/sha256/{digest[7:]}"))
    manifest = read(json.load(open(layout + "/index.json"))["manifests"][0]["digest"])
    for layer in manifest["layers"]:
        with tarfile.open(f"{layout}/blobs/sha256/{layer['digest'][7:]}") as tar:
            for member in tar:
                if member.islnk():
                    settle(member, *(os.path.join(tree, name.lstrip("/")) for name in (member.name, member.linkname)))


def settle(member, path, target):
    if not os.path.lexists(path) or not os.path.lexists(target) or os.lstat(path).st_ino != os.lstat(target).st_ino:
        return  # a later layer has replaced one of them
    st = os.lstat(path)
    if (st.st_uid, st.st_gid) != (member.uid, member.gid):  # only then, since it takes a capability away
        os.lchown(path, member.uid, member.gid)
    if not stat.S_ISLNK(st.st_mode):
        os.chmod(path, member.mode)
    os.utime(path, ns=(member.mtime * 10 ** 9,) * 2, follow_symlinks=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
