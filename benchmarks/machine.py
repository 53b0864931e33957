"""How fast an idle processor of this machine wakes, where it is a virtual one and says so.

What one thread hands to another waits for a processor.  An idle one of a virtual machine is given
back to the host, and takes 10 to 100 us to come back, unless it looks for work for a while before
that: 200 us in Linux as it comes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from places import PlaceError, held

GOVERNOR = Path("/sys/devices/system/cpu/cpuidle/current_governor")
SETTING = Path("/sys/module/haltpoll/parameters/guest_halt_poll_ns")


def halt_poll() -> int | None:
    """For how many nanoseconds an idle processor looks for work; None: that is not for us to say.

    The guest's part of it only: what the host does, no guest can see.
    """
    try:
        if GOVERNOR.read_text(encoding="ascii").strip() != "haltpoll":
            return None
        return int(SETTING.read_text(encoding="ascii"))
    except OSError:
        return None


@contextmanager
def halt_polling(nanoseconds: int | None) -> Iterator[None]:
    """Have it so, if it is given, and as it was afterwards.

    :raises PlaceError: this machine has no such setting, or it may not be written
    """
    if nanoseconds is None:
        yield
        return
    before = halt_poll()
    if before is None:
        raise PlaceError(f"no governor that polls: {SETTING} or {GOVERNOR}")
    try:
        with held():
            _write(nanoseconds)
        yield
    finally:
        with held():
            _write(before)


def _write(nanoseconds: int) -> None:
    try:
        SETTING.write_text(f"{nanoseconds}\n", encoding="ascii")
    except OSError as error:
        raise PlaceError(f"{SETTING}: {error.strerror}") from error
