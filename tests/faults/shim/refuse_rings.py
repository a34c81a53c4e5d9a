"""Runs a program under a seccomp filter that refuses io_uring, as container engines do: refuse_rings.py ERRNO PROGRAM…

The filter outlives exec and holds for all threads and children. x86_64 only.
"""

import ctypes
import os
import struct
import sys

PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 22, 38
SECCOMP_MODE_FILTER = 2
AUDIT_ARCH_X86_64 = 0xC000003E
IO_URING_SETUP, IO_URING_REGISTER = 425, 427
ALLOW, ERRNO = 0x7FFF0000, 0x00050000
LOAD, JUMP_IF_EQUAL, JUMP_IF_AT_LEAST, RETURN = 0x20, 0x15, 0x35, 0x06


def install(errno):
    def step(code, value, yes=0, no=0):
        return struct.pack("<HBBI", code, yes, no, value)

    # Classic BPF over struct seccomp_data: the call's number at 0, the architecture at 4.
    program = b"".join((
        step(LOAD, 4),
        step(JUMP_IF_EQUAL, AUDIT_ARCH_X86_64, no=4),
        step(LOAD, 0),
        # Not below the first of the three calls, and not above the last.
        step(JUMP_IF_AT_LEAST, IO_URING_SETUP, no=2),
        step(JUMP_IF_AT_LEAST, IO_URING_REGISTER + 1, yes=1),
        step(RETURN, ERRNO | errno),
        step(RETURN, ALLOW),
    ))
    steps = ctypes.create_string_buffer(program, len(program))
    filter_ = struct.pack("<HxxxxxxQ", len(program) // 8, ctypes.addressof(steps))
    libc = ctypes.CDLL(None, use_errno=True)
    prctl = lambda option, *rest: libc.prctl(option, *(ctypes.c_ulong(value) for value in rest))
    described = ctypes.create_string_buffer(filter_, len(filter_))
    if prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or prctl(
            PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(described), 0, 0):
        sys.exit(f"no seccomp filter: {os.strerror(ctypes.get_errno())}")


if __name__ == "__main__":
    install(int(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])
