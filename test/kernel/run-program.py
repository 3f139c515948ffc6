"""Runs a loaded program of thermal_zone_trip as the kernel would for a zone named cpu-thermal, once for each trip point:
run-program.py <program id> <offset of task_struct.comm> <offset of thermal_zone_device.type> <trip point>...

There is no zone. The program gets an address at which it finds this process's name where a zone has its own.
"""
import ctypes
import platform
import struct
import sys

BPF = {"x86_64": 321, "aarch64": 280}[platform.machine()]
PROG_LOAD, PROG_TEST_RUN, PROG_GET_FD_BY_ID = 5, 10, 13
RAW_TRACEPOINT, GET_CURRENT_TASK = 17, 35
libc = ctypes.CDLL(None, use_errno=True)


def bpf(command, attr):
    """The result, and the attributes as the kernel left them."""
    buffer = ctypes.create_string_buffer(attr, 128)
    result = libc.syscall(BPF, command, buffer, 128)
    if result < 0:
        sys.exit(f"bpf({command}): errno {ctypes.get_errno()}")
    return result, buffer.raw


def run(program, arguments=b""):
    """BPF_PROG_TEST_RUN of a raw tracepoint's program; gives the lower half of what it returns."""
    context = ctypes.create_string_buffer(arguments, max(8, len(arguments)))
    place = ctypes.addressof(context) if arguments else 0
    # prog_fd, retval, sizes and places of data, repeat, duration, sizes of the context, its place
    attr = struct.pack("IIIIQQIIIIQ", program, 0, 0, 0, 0, 0, 0, 0, len(arguments), 0, place)
    return struct.unpack_from("I", bpf(PROG_TEST_RUN, attr)[1], 4)[0]


def half_of_current_task(shift):
    """A program of its own: r0 = bpf_get_current_task() >> shift."""
    code = struct.pack("<BBhi", 0x85, 0, 0, GET_CURRENT_TASK)
    code += struct.pack("<BBhi", 0x77, 0, 0, shift) + struct.pack("<BBhi", 0x95, 0, 0, 0)
    place, license = ctypes.create_string_buffer(code, len(code)), ctypes.create_string_buffer(b"GPL")
    attr = struct.pack("IIQQ", RAW_TRACEPOINT, len(code) // 8, ctypes.addressof(place), ctypes.addressof(license))
    return run(bpf(PROG_LOAD, attr)[0])


with open("/proc/self/comm", "w") as comm:
    comm.write("cpu-thermal")
program, _ = bpf(PROG_GET_FD_BY_ID, struct.pack("I", int(sys.argv[1])))
task = half_of_current_task(32) << 32 | half_of_current_task(0)
zone = task + int(sys.argv[2]) - int(sys.argv[3])
for trip in sys.argv[4:]:
    run(program, struct.pack("QQQ", zone, int(trip), 1))
