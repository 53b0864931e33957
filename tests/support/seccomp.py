"""Run a program under a seccomp filter that refuses some system calls, as containers do.

The filter is installed by this file, run as a script: it forbids what it was told, then becomes
the program.  A filter survives execve(2) and needs no privilege (PR_SET_NO_NEW_PRIVS).
"""

from __future__ import annotations

import ctypes
import json
import os
import platform
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["cannot_filter", "run_filtered", "run_program_filtered"]

# AUDIT_ARCH_* of linux/audit.h, and the calls' numbers there
_ARCHITECTURES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
_NUMBERS = {
    "x86_64": {
        "mincore": 27,
        "preadv2": 327,
        "statx": 332,
        "eventfd2": 290,
        "io_uring_setup": 425,
        "io_uring_enter": 426,
        "io_uring_register": 427,
        "openat2": 437,
    },
    "aarch64": {
        "eventfd2": 19,
        "mincore": 232,
        "preadv2": 286,
        "statx": 291,
        "io_uring_setup": 425,
        "io_uring_enter": 426,
        "io_uring_register": 427,
        "openat2": 437,
    },
}

_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _SECCOMP_MODE_FILTER = 38, 22, 2
_BPF_LOAD_WORD, _BPF_JUMP_EQUAL, _BPF_RETURN = 0x20, 0x15, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_OFFSET_NUMBER, _OFFSET_ARCHITECTURE = 0, 4  # in struct seccomp_data


def cannot_filter() -> str | None:
    """Why no filter can be installed here, or None."""
    if not sys.platform.startswith("linux"):
        return "needs Linux's seccomp"
    if platform.machine() not in _ARCHITECTURES:
        return f"no system call numbers for {platform.machine()}"
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    return None if "\nSeccomp:" in status else "needs a kernel with CONFIG_SECCOMP_FILTER"


def run_filtered(
    code: str, blocked: Mapping[str, int], **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run Python code in a child in which these system calls fail with these errno values."""
    return run_program_filtered([sys.executable, "-c", code], blocked, **options)


def run_program_filtered(
    command: Sequence[str],
    blocked: Mapping[str, int],
    *,
    env: Mapping[str, str] | None = None,
    timeout: float = 60,
) -> subprocess.CompletedProcess[str]:
    """As `run_filtered`, for a program; `env` adds to the environment."""
    return subprocess.run(
        [sys.executable, __file__, json.dumps(dict(blocked)), *command],
        env=os.environ | dict(env or {}),
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def filter_of(blocked: Mapping[str, int], machine: str) -> bytes:
    """The BPF program (an array of struct sock_filter)."""
    numbers = _NUMBERS[machine]
    instructions = [
        (_BPF_LOAD_WORD, 0, 0, _OFFSET_ARCHITECTURE),
        (_BPF_JUMP_EQUAL, 1, 0, _ARCHITECTURES[machine]),
        (_BPF_RETURN, 0, 0, _ALLOW),  # another architecture's calls: not ours to judge
        (_BPF_LOAD_WORD, 0, 0, _OFFSET_NUMBER),
    ]
    for name, error in blocked.items():
        instructions.append((_BPF_JUMP_EQUAL, 0, 1, numbers[name]))
        instructions.append((_BPF_RETURN, 0, 0, _ERRNO | error))
    instructions.append((_BPF_RETURN, 0, 0, _ALLOW))
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)


def install(blocked: Mapping[str, int]) -> None:
    """Forbid the calls to this process and its children, for good."""

    class Program(ctypes.Structure):
        _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))

    code = filter_of(blocked, platform.machine())
    libc = ctypes.CDLL(None, use_errno=True)
    program = Program(len(code) // 8, code)
    for arguments in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0),
        (_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.byref(program)),
    ):
        if libc.prctl(*arguments, 0, 0) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"prctl: {os.strerror(number)}")


if __name__ == "__main__":
    install(json.loads(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])
