"""Can this process have an io_uring?  One probe per process (again after a fork, and after a lack
of memory or descriptors), on first use.

Set-up, feature bits, opcode probe, eventfd, and one operation there and back: some seccomp
profiles allow the first call and refuse the others.
"""

from __future__ import annotations

import errno
import os
import sys
from typing import NamedTuple

from . import _handle

# Without these a ring could lose completions, read path strings late, or need a position of its
# own; together they mean Linux 5.13.
REQUIRED_FEATURES = (
    "NODROP",
    "SUBMIT_STABLE",
    "RW_CUR_POS",
    "EXT_ARG",
    "NATIVE_WORKERS",
    "RSRC_TAGS",
)
REQUIRED_OPERATIONS = ("nop", "read", "write", "openat", "close", "fsync", "async_cancel")


class Verdict(NamedTuple):
    """Whether io_uring can be used here, and if not, why and what to do about it."""

    available: bool
    reason: str
    remedy: str = ""
    errno: int | None = None
    features: tuple[str, ...] = ()
    setup_flags: tuple[str, ...] = ()
    operations: tuple[str, ...] = ()
    missing_operations: tuple[str, ...] = ()
    opcodes: frozenset[int] = frozenset()


# What a process runs into and gets out of again: not to be held against it for its whole life.
PASSING = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN})

_verdict: tuple[int, Verdict] | None = None


def probe() -> Verdict:
    """The verdict for this process."""
    global _verdict
    if _verdict is None or _verdict[0] != os.getpid() or _verdict[1].errno in PASSING:
        _verdict = (os.getpid(), _probe())
    return _verdict[1]


def _probe() -> Verdict:
    if not sys.platform.startswith("linux"):
        return Verdict(
            available=False,
            reason=f"io_uring is a Linux interface; this is {sys.platform}",
            remedy="Files are served by threads.",
        )
    if hasattr(sys, "getandroidapilevel"):
        # Android's seccomp filter kills a process that tries.
        return Verdict(
            available=False,
            reason="Android forbids io_uring",
            remedy="Files are served by threads.",
        )
    if not _handle.COMPILED:
        return Verdict(
            available=False,
            reason="installed without the compiled core",
            remedy="Install again with a C compiler and without ANYIO_URING_NO_EXTENSION.",
        )
    from . import _uring

    try:
        ring = _uring.Ring(8, None, 8)
    except OSError as error:
        return _refused(error)
    try:
        flags = tuple(name for name, bit in _uring.SETUP_FLAGS.items() if ring.setup_flags & bit)
        features = tuple(name for name, bit in _uring.FEATURES.items() if ring.features & bit)
        lacking = [name for name in REQUIRED_FEATURES if name not in features]
        if lacking:
            return Verdict(
                available=False,
                features=features,
                setup_flags=flags,
                reason=f"this kernel's io_uring is too old (lacks {', '.join(lacking)})",
                remedy="Linux 5.13 or later has all of it.",
            )
        opcodes = frozenset(ring.supported())
        names = _uring.OPERATIONS
        have = tuple(name for name in names if names[name] in opcodes)
        missing = tuple(name for name in names if names[name] not in opcodes)
        if not set(REQUIRED_OPERATIONS) <= set(have):
            return Verdict(
                available=False,
                features=features,
                setup_flags=flags,
                operations=have,
                missing_operations=missing,
                reason="the kernel or a sandbox lacks io_uring operations: " + ", ".join(missing),
                remedy="Linux 5.13 or later has all that are needed.",
            )
        operation = _uring.nop_operation()
        ring.start(operation)
        ring.wait(1.0)
        if not operation.done or operation.result != 0:
            return Verdict(
                available=False,
                reason="an operation sent to io_uring never came back",
                remedy="A sandbox seems to emulate io_uring incompletely.",
            )
        return Verdict(
            available=True,
            reason="io_uring works here",
            features=features,
            setup_flags=flags,
            operations=have,
            missing_operations=missing,
            opcodes=opcodes,
        )
    except OSError as error:
        return _refused(error)
    finally:
        ring.leak()


def _refused(error: OSError) -> Verdict:
    number = error.errno or 0
    code = errno.errorcode.get(number, str(number))
    call = (error.strerror or "").partition(":")[0]
    reason = f"{call or 'io_uring_setup'} failed with {code} ({os.strerror(number)})"
    return Verdict(available=False, reason=reason, remedy=_remedy(number), errno=number)


def _remedy(number: int) -> str:
    if number in (errno.EPERM, errno.EACCES):
        disabled = disabled_by_sysctl()
        if disabled == 2:
            return (
                "The sysctl kernel.io_uring_disabled is 2: io_uring is off for everybody. "
                "Set it to 0 (sysctl kernel.io_uring_disabled=0)."
            )
        if disabled == 1:
            return (
                "The sysctl kernel.io_uring_disabled is 1: only privileged processes and "
                "members of kernel.io_uring_group may use io_uring. Set it to 0, or join "
                "that group."
            )
        return (
            "A seccomp profile or security module forbids it. Docker, containerd 2 and Podman "
            "do so by default: run the container with a seccomp profile that allows "
            "io_uring_setup, io_uring_enter and io_uring_register."
        )
    if number == errno.ENOSYS:
        return (
            "The kernel has no io_uring (Linux 5.13 or later has all that is needed), or a "
            "sandbox such as gVisor hides it."
        )
    if number == errno.ENOMEM:
        # Linux 5.12 stopped counting rings; 6.18, for one, counts them again.
        return "Out of memory, or RLIMIT_MEMLOCK is too small: raise it (ulimit -l)."
    if number in (errno.EMFILE, errno.ENFILE):
        return "Too many open files: raise RLIMIT_NOFILE (ulimit -n)."
    return "Files are served by threads."


def disabled_by_sysctl() -> int | None:
    """kernel.io_uring_disabled: 0, 1 or 2; None where there is no such sysctl (before 6.6)."""
    try:
        with open("/proc/sys/kernel/io_uring_disabled", encoding="ascii") as setting:
            return int(setting.read())
    except (OSError, ValueError):
        return None
