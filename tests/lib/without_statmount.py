# SPDX-License-Identifier: Apache-2.0
"""without_statmount.py PROGRAM ARGUMENT...: runs a program for which statmount(2) does not exist, as before Linux 6.8 and
below filters of system calls that do not know it."""
import ctypes, os, struct, sys

STATMOUNT = 457
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
LOAD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
ALLOW, FAIL = 0x7FFF0000, 0x00050000
ENOSYS = 38

code = b"".join(struct.pack("HBBI", *one) for one in [
    (LOAD, 0, 0, 0),  # the number of the call
    (JUMP_IF_EQUAL, 0, 1, STATMOUNT),
    (RETURN, 0, 0, FAIL | ENOSYS),
    (RETURN, 0, 0, ALLOW),
])
buffer = ctypes.create_string_buffer(code, len(code))


class Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


program = Program(len(code) // 8, ctypes.addressof(buffer))
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.byref(program)):
    sys.exit("without_statmount: " + os.strerror(ctypes.get_errno()))
os.execvp(sys.argv[1], sys.argv[1:])
