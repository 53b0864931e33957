"""Ctrl-C on Trio: met by the next operation, whatever serves it, and raised bare."""

from __future__ import annotations

import signal
import threading
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

import anyio_uring
from anyio_uring import _batch, copy_file, read_files, stat_files, write_files

pytestmark = pytest.mark.usefixtures("tiers")

OPERATIONS: dict[str, Callable[[Path], Awaitable[Any]]] = {
    "write_bytes": lambda folder: anyio_uring.Path(folder / "new").write_bytes(b"data"),
    "mkdir": lambda folder: anyio_uring.Path(folder / "new").mkdir(),
    "read_bytes": lambda folder: anyio_uring.Path(folder / "file").read_bytes(),
    "stat": lambda folder: anyio_uring.Path(folder / "file").stat(),
    "copy_file": lambda folder: copy_file(folder / "file", folder / "new"),
    "read_files": lambda folder: read_files([folder / "file"]),
    "stat_files": lambda folder: stat_files([folder / "file"]),
    "write_files": lambda folder: write_files([(folder / "new", b"data")]),
}


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)
def test_pending_interrupt_comes_before_any_effect(
    tmp_path: Path, operation: Callable[[Path], Awaitable[Any]]
) -> None:
    (tmp_path / "file").write_bytes(b"data")

    async def main() -> None:
        await operation(tmp_path)  # the ring, threads and a meter are there
        for path in tmp_path.iterdir():
            if path.name == "new":
                path.rmdir() if path.is_dir() else path.unlink()
        signal.raise_signal(signal.SIGINT)
        await operation(tmp_path)

    with pytest.raises(KeyboardInterrupt):
        trio.run(main, restrict_keyboard_interrupt_to_checkpoints=True)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("restricted", [False, True])
def test_interrupt_while_threads_work_is_raised_bare(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, restricted: bool
) -> None:
    main_thread = threading.main_thread().ident
    assert main_thread is not None
    stat_chunk = _batch.stat_chunk

    def interrupting(*arguments: Any) -> Any:
        signal.pthread_kill(main_thread, signal.SIGINT)
        return stat_chunk(*arguments)

    monkeypatch.setattr(_batch, "stat_chunk", interrupting)

    async def main() -> None:
        await stat_files([tmp_path] * 1000)
        await trio.lowlevel.checkpoint()

    with pytest.raises(KeyboardInterrupt):
        trio.run(main, restrict_keyboard_interrupt_to_checkpoints=restricted)
