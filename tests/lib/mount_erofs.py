#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""mount_erofs.py INDEX DIRECTORY [DATA...]: the kernel mounts an EROFS index, read-only, with data
files as its devices. Exit status 77: this kernel does not mount EROFS from files.

mount(8) cannot do it: it puts a loop device under any regular file, and EROFS on a block device
takes only block devices for data. It also passes all options as one string of at most a page.
"""
import ctypes
import errno
import os
import sys

# The numbers are the same on every architecture.
MOVE_MOUNT, FSOPEN, FSCONFIG, FSMOUNT = 429, 430, 431, 432
FSOPEN_CLOEXEC, FSMOUNT_CLOEXEC, MOUNT_ATTR_RDONLY, MOVE_MOUNT_F_EMPTY_PATH = 1, 1, 1, 4
FSCONFIG_SET_FLAG, FSCONFIG_SET_STRING, FSCONFIG_CMD_CREATE = 0, 1, 6
AT_FDCWD = -100

libc = ctypes.CDLL(None, use_errno=True)


def call(number, *args):
    args = [os.fsencode(a) if isinstance(a, str) else a if a is None else ctypes.c_long(a) for a in args]
    result = libc.syscall(ctypes.c_long(number), *args)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


def mount(index, directory, devices):
    context = call(FSOPEN, "erofs", FSOPEN_CLOEXEC)
    try:
        call(FSCONFIG, context, FSCONFIG_SET_STRING, "source", index, 0)
        call(FSCONFIG, context, FSCONFIG_SET_FLAG, "ro", None, 0)
        for device in devices:
            call(FSCONFIG, context, FSCONFIG_SET_STRING, "device", device, 0)
        call(FSCONFIG, context, FSCONFIG_CMD_CREATE, None, None, 0)
        mounted = call(FSMOUNT, context, FSMOUNT_CLOEXEC, MOUNT_ATTR_RDONLY)
        call(MOVE_MOUNT, mounted, "", AT_FDCWD, directory, MOVE_MOUNT_F_EMPTY_PATH)
    except OSError as error:
        try:  # the kernel's own words, a line a read
            while line := os.read(context, 4096):
                print(os.fsdecode(line).strip(), file=sys.stderr)
        except OSError:
            pass
        raise error


def main(args):
    try:
        mount(args[0], args[1], args[2:])
    except OSError as error:
        print(f"mount of {args[0]}: {error.strerror}", file=sys.stderr)
        sys.exit(77 if error.errno in (errno.ENODEV, errno.ENOTBLK, errno.EPERM) else 1)


if __name__ == "__main__":
    main(sys.argv[1:])
