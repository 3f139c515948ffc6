"""Runs a loaded program of a raw tracepoint once (BPF_PROG_TEST_RUN): run-program.py <program id> <argument>..."""
import ctypes
import platform
import struct
import sys

BPF = {"x86_64": 321, "aarch64": 280}[platform.machine()]
PROG_TEST_RUN, PROG_GET_FD_BY_ID = 10, 13
libc = ctypes.CDLL(None, use_errno=True)


def bpf(command, attr):
    buffer = ctypes.create_string_buffer(attr, 128)
    result = libc.syscall(BPF, command, buffer, 128)
    if result < 0:
        sys.exit(f"bpf({command}): errno {ctypes.get_errno()}")
    return result


program = bpf(PROG_GET_FD_BY_ID, struct.pack("I", int(sys.argv[1])))
arguments = struct.pack(f"{len(sys.argv) - 2}Q", *(int(text, 0) for text in sys.argv[2:]))
context = ctypes.create_string_buffer(arguments, len(arguments))
# prog_fd, retval, data sizes, data, data_out, repeat, duration, context sizes, context
bpf(PROG_TEST_RUN, struct.pack("IIIIQQIIIIQ", program, 0, 0, 0, 0, 0, 0, 0, len(arguments), 0, ctypes.addressof(context)))
