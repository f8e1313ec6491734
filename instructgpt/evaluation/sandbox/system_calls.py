"""A filter of system calls for one process (Linux seccomp), written by hand in its small machine language.

It refuses what a program that only computes never needs: network, other processes, changing files, signals to
others, raising its limits. Files can still be opened for reading. Standard library only, and nothing of this
package: the sandboxed process runs this file from its path.

Numbers of calls: the kernel's tables `syscall_64.tbl` and `asm-generic/unistd.h`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

_X86_64 = {
    "socket": 41, "connect": 42, "accept": 43, "sendto": 44, "sendmsg": 46, "bind": 49, "listen": 50,
    "socketpair": 53, "accept4": 288, "fork": 57, "vfork": 58, "execve": 59, "execveat": 322, "kill": 62,
    "tkill": 200, "tgkill": 234, "pidfd_open": 434, "pidfd_send_signal": 424, "pidfd_getfd": 438,
    "ptrace": 101, "process_vm_readv": 310, "process_vm_writev": 311, "truncate": 76, "ftruncate": 77,
    "fallocate": 285, "rename": 82, "renameat": 264, "renameat2": 316, "mkdir": 83, "mkdirat": 258,
    "rmdir": 84, "creat": 85, "link": 86, "linkat": 265, "unlink": 87, "unlinkat": 263, "symlink": 88,
    "symlinkat": 266, "mknod": 133, "mknodat": 259, "chmod": 90, "fchmod": 91, "fchmodat": 268,
    "fchmodat2": 452, "chown": 92, "fchown": 93, "lchown": 94, "fchownat": 260, "setxattr": 188,
    "lsetxattr": 189, "fsetxattr": 190, "removexattr": 197, "lremovexattr": 198, "fremovexattr": 199,
    "utime": 132, "utimes": 235, "futimesat": 261, "utimensat": 280, "setuid": 105, "setgid": 106,
    "setpriority": 141, "setrlimit": 160, "chroot": 161, "mount": 165, "umount2": 166, "swapon": 167,
    "reboot": 169, "sethostname": 170, "settimeofday": 164, "clock_settime": 227, "acct": 163,
    "init_module": 175, "delete_module": 176, "finit_module": 313, "kexec_load": 246, "bpf": 321,
    "perf_event_open": 298, "userfaultfd": 323, "memfd_create": 319, "io_uring_setup": 425, "unshare": 272,
    "setns": 308, "open_by_handle_at": 304, "open_tree": 428, "move_mount": 429, "fsopen": 430,
    "fsconfig": 431, "fsmount": 432, "add_key": 248, "request_key": 249, "keyctl": 250, "openat2": 437,
}  # fmt: skip
_AARCH64 = {
    "socket": 198, "socketpair": 199, "bind": 200, "listen": 201, "accept": 202, "connect": 203,
    "sendto": 206, "sendmsg": 211, "accept4": 242, "execve": 221, "execveat": 281, "kill": 129, "tkill": 130,
    "tgkill": 131, "pidfd_open": 434, "pidfd_send_signal": 424, "pidfd_getfd": 438, "ptrace": 117,
    "process_vm_readv": 270, "process_vm_writev": 271, "truncate": 45, "ftruncate": 46, "fallocate": 47,
    "renameat": 38, "renameat2": 276, "mkdirat": 34, "linkat": 37, "unlinkat": 35, "symlinkat": 36,
    "mknodat": 33, "fchmod": 52, "fchmodat": 53, "fchmodat2": 452, "fchownat": 54, "fchown": 55,
    "setxattr": 5, "lsetxattr": 6, "fsetxattr": 7, "removexattr": 14, "lremovexattr": 15, "fremovexattr": 16,
    "utimensat": 88, "setuid": 146, "setgid": 144, "setpriority": 140, "setrlimit": 164, "chroot": 51,
    "mount": 40, "umount2": 39, "swapon": 224, "reboot": 142, "sethostname": 161, "settimeofday": 170,
    "clock_settime": 112, "acct": 89, "init_module": 105, "delete_module": 106, "finit_module": 273,
    "kexec_load": 104, "bpf": 280, "perf_event_open": 241, "userfaultfd": 282, "memfd_create": 279,
    "io_uring_setup": 425, "unshare": 97, "setns": 268, "open_by_handle_at": 265, "open_tree": 428,
    "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "add_key": 217, "request_key": 218,
    "keyctl": 219, "openat2": 437,
}  # fmt: skip
_MACHINES = {
    # audit number, refused calls, (clone, clone3, prlimit64), {opening call: its argument with the flags}
    "x86_64": (0xC000003E, _X86_64, (56, 435, 302), {2: 1, 257: 2}),
    "aarch64": (0xC00000B7, _AARCH64, (220, 435, 261), {56: 2}),
}
_LOAD, _EQUAL, _ANY_BIT, _AT_LEAST, _RETURN = 0x20, 0x15, 0x45, 0x35, 0x06
_ALLOW, _KILL, _ERROR = 0x7FFF0000, 0x80000000, 0x00050000
_NUMBER, _MACHINE = 0, 4  # offsets in `struct seccomp_data`
_CLONE_THREAD = 0x00010000
_X32 = 0x40000000
_NO_NEW_PRIVILEGES, _SET_SECCOMP, _FILTER = 38, 22, 2
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND

Instruction = tuple[int, int, int, int]  # code, steps on if true, steps on if false, constant


def _argument(number: int, high: bool = False) -> int:
    return 16 + 8 * number + (4 if high else 0)


def program(machine: str) -> list[Instruction]:
    """The filter for a machine, as instructions.

    Raises:
        KeyError: no table for it.
    """
    audit, refused, (clone, clone3, prlimit), opening = _MACHINES[machine]
    refuse = (_RETURN, 0, 0, _ERROR | errno.EPERM)
    lines: list[Instruction] = [
        (_LOAD, 0, 0, _MACHINE),
        (_EQUAL, 1, 0, audit),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
    ]
    if machine == "x86_64":  # the x32 numbers of the same calls
        lines += [(_AT_LEAST, 0, 1, _X32), refuse]
    for number in sorted(refused.values()):
        lines += [(_EQUAL, 0, 1, number), refuse]
    # The C library falls back to clone, whose flags can be seen here.
    lines += [(_EQUAL, 0, 1, clone3), (_RETURN, 0, 0, _ERROR | errno.ENOSYS)]
    lines += [(_EQUAL, 0, 4, clone), (_LOAD, 0, 0, _argument(0)), (_ANY_BIT, 1, 0, _CLONE_THREAD), refuse]
    lines += [(_RETURN, 0, 0, _ALLOW)]
    # Limits may be read: the pointer to new ones is null then.
    lines += [(_EQUAL, 0, 6, prlimit), (_LOAD, 0, 0, _argument(2)), (_EQUAL, 0, 2, 0)]
    lines += [(_LOAD, 0, 0, _argument(2, high=True)), (_EQUAL, 1, 0, 0), refuse, (_RETURN, 0, 0, _ALLOW)]
    for number, flags in opening.items():
        lines += [(_EQUAL, 0, 4, number), (_LOAD, 0, 0, _argument(flags)), (_ANY_BIT, 0, 1, _WRITING)]
        lines += [(_RETURN, 0, 0, _ERROR | errno.EACCES), (_RETURN, 0, 0, _ALLOW)]
    return [*lines, (_RETURN, 0, 0, _ALLOW)]


def install() -> bool:
    """Filter the calls of this process from now on, for good; False where the system can't."""
    if sys.platform != "linux" or platform.machine() not in _MACHINES or sys.byteorder != "little":
        return False
    code = b"".join(struct.pack("HBBI", *line) for line in program(platform.machine()))
    buffer = ctypes.create_string_buffer(code, len(code))

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("lines", ctypes.c_void_p))

    whole = Program(len(code) // 8, ctypes.cast(buffer, ctypes.c_void_p))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    none = ctypes.c_ulong(0)
    if prctl(_NO_NEW_PRIVILEGES, ctypes.c_ulong(1), none, none, none) != 0:
        return False
    return bool(prctl(_SET_SECCOMP, ctypes.c_ulong(_FILTER), ctypes.byref(whole), none, none) == 0)
