# SPDX-License-Identifier: Apache-2.0
"""Succeeds if the kernel tells of the mounts of other namespaces by listmount(2) (Linux 6.11)."""
import ctypes
import fcntl
import os
import struct
import sys

libc = ctypes.CDLL(None, use_errno=True)
with open("/proc/self/ns/mnt", "rb") as own:
    try:
        name_space = struct.unpack("Q", fcntl.ioctl(own, 0x8008B705, bytes(8)))[0]
    except OSError:
        sys.exit(1)
request = ctypes.create_string_buffer(struct.pack("=IIQQQ", 32, 0, 2**64 - 1, 0, name_space), 32)
found = ctypes.c_uint64()
sys.exit(0 if libc.syscall(458, request, ctypes.byref(found), ctypes.c_size_t(1), 0) >= 0 else 1)
