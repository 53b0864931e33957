"""`atomic_write`: a new content for a name, all of it or none.

What is done on the disk, and why it is safe, is told in `_staged`; this is who does it when, and
what becomes of it when the block ends or is cancelled.
"""

from __future__ import annotations

import io
import os
import sys
import weakref
from contextlib import AbstractAsyncContextManager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, overload

from anyio import CancelScope

from ._modes import Mode
from ._open import as_text, check_arguments, finish
from ._runtime import current_runtime
from ._staged import Staged

if TYPE_CHECKING:
    from _typeshed import StrOrBytesPath

    from ._file import AsyncFile

BinaryMode: TypeAlias = Literal["wb", "bw", "xb", "bx"]
TextMode: TypeAlias = Literal["w", "wt", "tw", "x", "xt", "tx"]


@overload
def atomic_write(
    path: StrOrBytesPath,
    mode: BinaryMode = ...,
    *,
    durable: bool = ...,
    encoding: str | None = ...,
    errors: str | None = ...,
    newline: str | None = ...,
) -> AbstractAsyncContextManager[AsyncFile[bytes]]: ...


@overload
def atomic_write(
    path: StrOrBytesPath,
    mode: TextMode,
    *,
    durable: bool = ...,
    encoding: str | None = ...,
    errors: str | None = ...,
    newline: str | None = ...,
) -> AbstractAsyncContextManager[AsyncFile[str]]: ...


@overload
def atomic_write(
    path: StrOrBytesPath,
    mode: str,
    *,
    durable: bool = ...,
    encoding: str | None = ...,
    errors: str | None = ...,
    newline: str | None = ...,
) -> AbstractAsyncContextManager[AsyncFile[Any]]: ...


def atomic_write(
    path: StrOrBytesPath,
    mode: str = "wb",
    *,
    durable: bool = True,
    encoding: str | None = None,
    errors: str | None = None,
    newline: str | None = None,
) -> AbstractAsyncContextManager[AsyncFile[Any]]:
    """Replace the content of a file as a whole: the block gets a new file, which takes the
    target's place when the block ends well.

    Until then, and for ever if the block ends with an exception or a cancellation, the target is
    what it was; nothing is left beside it.  Readers see the old content or the new one.  An
    existing target's permission bits are kept, and owner, group and access control list if this
    process may set them; without the group, its members may do no more than everybody.  A symbolic
    link stays, and the file it names is replaced.  A new file's permissions are those `open` gives.

    While the block runs there is a temporary beside the target, called ``.NAME.atomic-`` and 16
    digits.  One that a killed process has left is removed by the next `atomic_write` to that
    target, which looks through the directory for it.

    :param path: the target, a regular file or nothing yet
    :param mode: ``"w"`` or ``"wb"``, or ``"x"`` or ``"xb"``, which never replaces a target, not
        even one that comes into being while the block runs
    :param durable: after a power cut too it is either content, and the new one once the block has
        been left: the file is synced before it takes its place, then the directory.  Without it,
        much faster, a power cut may leave an empty file
    :param encoding: this, `errors` and `newline` as for :func:`open`, in text modes
    :raises ValueError: another mode, or arguments that do not go together
    :raises FileExistsError: an ``x`` mode, and there is a target
    :raises OSError: as :func:`open`, write(2), fsync(2) and rename(2), with the target's name;
        EINVAL for what is no regular file.  Only where the sync of the directory fails, the new
        content is in place already
    :raises anyio.NoEventLoopError: outside of a run

    >>> import anyio, anyio_uring, tempfile
    >>> async def main():
    ...     with tempfile.TemporaryDirectory() as folder:
    ...         path = anyio_uring.Path(folder) / "settings.ini"
    ...         async with anyio_uring.atomic_write(path, "w", encoding="utf-8") as f:
    ...             await f.write("[main]")
    ...         return await path.read_text("utf-8"), [p.name async for p in path.parent.iterdir()]
    >>> anyio.run(main)
    ('[main]', ['settings.ini'])
    """
    target = os.fspath(path)
    parsed = check_arguments(target, mode, -1, encoding, errors, newline, True, None)
    if parsed.reading or parsed.appending or parsed.updating:
        raise ValueError(
            "atomic_write() writes a file as a whole: the mode is 'w', 'wb', 'x' or 'xb', "
            f"not {mode!r}"
        )
    if not parsed.binary:
        encoding = io.text_encoding(encoding)
    return _AtomicWrite(target, mode, parsed, durable, (encoding, errors, newline))


class _AtomicWrite(AbstractAsyncContextManager["AsyncFile[Any]"]):
    """What `atomic_write` returns; for one block."""

    def __init__(
        self,
        path: str | bytes,
        mode: str,
        parsed: Mode,
        durable: bool,
        coding: tuple[str | None, str | None, str | None],
    ) -> None:
        self._path = path
        self._mode = mode
        self._parsed = parsed
        self._durable = durable
        self._coding = coding
        self._file: AsyncFile[Any] | None = None
        self._staged: Staged | None = None

    async def __aenter__(self) -> AsyncFile[Any]:
        if self._staged is not None:
            raise RuntimeError("what atomic_write() returns is for one block")
        path, parsed = self._path, self._parsed
        runtime = current_runtime()
        sys.audit("open", path, parsed.audit_name, parsed.flags)
        await runtime.gate.admit()
        self._staged = staged = Staged(path, parsed.creating, self._durable)
        # For a block that is never left: it is dropped with its task, or the process ends
        self._finalizer = weakref.finalize(self, staged.discard)
        try:
            await runtime.paths.do(staged.create, None)
            file = self._file = await finish(
                runtime, staged.take(), parsed.flags, path, parsed, True, None, -1, exclusive=True
            )
            if not parsed.binary:
                file = self._file = as_text(file, self._mode, -1, *self._coding)
        except BaseException as error:
            await self._undo(staged, error)
            raise
        return file

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        staged, file = self._staged, self._file
        assert staged is not None
        assert file is not None
        if exc_type is not None:
            await self._undo(staged, exc_value)
            return
        try:
            await self._commit(staged, file)
        except BaseException as error:
            await self._undo(staged, error)
            raise

    async def _commit(self, staged: Staged, file: AsyncFile[Any]) -> None:
        runtime = current_runtime()
        late = file.closed
        if self._durable and not late:
            await file.fsync()
        await file.aclose()
        if self._durable and late:
            await runtime.paths.do(staged.sync, None)
        # The last chance to be cancelled is before a thread begins with it
        await runtime.paths.do(staged.commit, None)
        self._finalizer.detach()

    async def _undo(self, staged: Staged, error: BaseException | None) -> None:
        """Close and remove, whatever is cancelled meanwhile."""
        file = self._file
        if isinstance(error, GeneratorExit):
            # Nobody drives this coroutine any more: it may not wait
            with suppress(OSError, ValueError):
                if file is not None:
                    file.close()
            self._finalizer()
            return
        try:
            if file is not None:
                with suppress(OSError, ValueError):  # nobody wants what it cannot write
                    await file.aclose()
        finally:
            try:
                with CancelScope(shield=True):
                    await current_runtime().paths.do(staged.discard_at_last, None)
            finally:
                self._finalizer()
