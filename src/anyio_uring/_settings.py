"""Process-wide settings, and the environment variable that sets the driver."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, get_args

Driver = Literal["auto", "uring", "thread"]
Tier = Literal["now", "ring", "thread"]
DRIVER_VARIABLE = "ANYIO_URING_DRIVER"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What :func:`configure` can change.  A run reads them when it first uses a file.

    :ivar driver: ``"auto"`` (io_uring where it works, else threads), ``"uring"`` (required:
        :exc:`UringUnavailableError` where it cannot be had) or ``"thread"`` (cached data at once,
        everything else in worker threads); also by the environment variable
        ``ANYIO_URING_DRIVER``
    :ivar checkpoint_every: None gives each turn of the loop a budget of time for operations that
        need no waiting; a number makes the loop turn after so many of them, 1 after every one
    :ivar inline_size_max: bytes copied on the loop's thread at once
    :ivar inflight_max: operations in the kernel for each loop; more wait in order
    :ivar workers_max: kernel worker threads for each loop; None: sixteen, or four for each
        processor if that is more
    :ivar cancel_grace: seconds between a kernel cancel that did not take and leaving an
        operation without effect behind

    >>> import anyio_uring
    >>> anyio_uring.current_settings().inflight_max
    1024
    """

    driver: Driver = "auto"
    checkpoint_every: int | None = None
    inline_size_max: int = 1 << 20
    inflight_max: int = 1024
    workers_max: int | None = None
    cancel_grace: float = 0.01

    def __post_init__(self) -> None:
        if self.driver not in get_args(Driver):
            raise ValueError(f"driver must be 'auto', 'uring' or 'thread', not {self.driver!r}")
        _check_count("checkpoint_every", self.checkpoint_every, 1, optional=True)
        _check_count("inline_size_max", self.inline_size_max, 0)
        _check_count("inflight_max", self.inflight_max, 1, highest=16384)
        _check_count("workers_max", self.workers_max, 1, optional=True)
        grace: object = self.cancel_grace
        if isinstance(grace, bool) or not isinstance(grace, int | float) or not 0 <= grace < 3600:
            raise ValueError(f"cancel_grace must be from 0 to 3600 seconds, not {grace!r}")


def _check_count(
    name: str, value: object, lowest: int, highest: int | None = None, optional: bool = False
) -> None:
    if optional and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, int):
        raise ValueError(
            f"{name} must be a whole number{' or None' if optional else ''}, not {value!r}"
        )
    if value < lowest or (highest is not None and value > highest):
        limit = f"from {lowest} to {highest}" if highest else f"at least {lowest}"
        raise ValueError(f"{name} must be {limit}, not {value}")


_current: Settings | None = None
# A testing setting: which tiers a run may use.  None: all.
_tiers: frozenset[Tier] | None = None


def current_settings() -> Settings:
    """The settings that the next run will use.

    :raises ValueError: ``ANYIO_URING_DRIVER`` holds something else than ``auto``, ``uring`` or
        ``thread``

    >>> import anyio_uring
    >>> anyio_uring.current_settings().driver
    'auto'
    """
    global _current
    if _current is None:
        driver = os.environ.get(DRIVER_VARIABLE) or "auto"
        if driver not in get_args(Driver):
            raise ValueError(
                f"{DRIVER_VARIABLE} must be 'auto', 'uring' or 'thread', not {driver!r}"
            )
        _current = Settings(driver=driver)  # type: ignore[arg-type]
    return _current


def configure(**changes: Any) -> Settings:
    """Change settings for the whole process, for runs (event loops) that start later.

    :param changes: fields of :class:`Settings`
    :return: the new settings
    :raises TypeError: no such setting
    :raises ValueError: a value out of range

    >>> import anyio_uring
    >>> anyio_uring.configure(inflight_max=256).inflight_max
    256
    >>> anyio_uring.configure(inflight_max=1024).inflight_max
    1024
    """
    global _current
    known = {field.name for field in dataclasses.fields(Settings)}
    for name in changes:
        if name not in known:
            raise TypeError(
                f"configure() has no setting {name!r}; there are: " + ", ".join(sorted(known))
            )
    _current = dataclasses.replace(current_settings(), **changes)
    return _current


def allowed_tiers() -> frozenset[Tier]:
    return _tiers if _tiers is not None else frozenset(get_args(Tier))


@contextmanager
def force_tiers(*tiers: Tier) -> Iterator[None]:
    """Let runs that start inside the block use these tiers only (for tests)."""
    global _tiers
    unknown = set(tiers) - set(get_args(Tier))
    if unknown or not tiers:
        raise ValueError(f"tiers are 'now', 'ring' and 'thread', not {tiers!r}")
    before, _tiers = _tiers, frozenset(tiers)
    try:
        yield
    finally:
        _tiers = before


def workers_cap(settings: Settings) -> int:
    """Kernel worker threads of one loop.

    The kernel's own cap, four for each processor, is too low where few of these are there: workers
    wait for disks, and what can wait together (a commit of btrfs) costs once.
    """
    return settings.workers_max or max(16, 4 * (os.cpu_count() or 1))
