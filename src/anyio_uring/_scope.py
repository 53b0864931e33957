"""Which runs have AnyIO's files served by us for themselves alone, and each with which settings.

A run is what stands for it: an asyncio loop, or the token of a Trio run.  It is in the table from
its first step until it has ended, so nothing that lives on is kept here.
"""

from __future__ import annotations

import sys
from typing import Any

from ._settings import Settings, current_settings

# The run -> its settings; None: those of the process.
_runs: dict[object, Settings | None] = {}


def current_run() -> object | None:
    """What stands for the run of the current task; None outside of one."""
    trio_lowlevel: Any = getattr(sys.modules.get("trio"), "lowlevel", None)
    # Not `in_trio_run`: see `_runtime.current_runtime`
    if trio_lowlevel is not None and trio_lowlevel.in_trio_task():
        token: object = trio_lowlevel.current_trio_token()
        return token
    asyncio_module: Any = sys.modules.get("asyncio")
    return None if asyncio_module is None else asyncio_module._get_running_loop()


def is_scoped() -> bool:
    """Whether the current run is one of these: what a swapped function asks in each call."""
    return current_run() in _runs


def settings_of_run() -> Settings:
    """The settings for the current run, which uses files for the first time."""
    return _runs.get(current_run()) or current_settings()


def enter(settings: Settings | None) -> object | None:
    """Put the current run into the table; what to `leave` it with."""
    run = current_run()
    if run is not None:
        _runs[run] = settings
    return run


def leave(run: object | None) -> None:
    """The run has ended."""
    _runs.pop(run, None)
