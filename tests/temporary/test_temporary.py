"""Temporary files and directories behave as AnyIO's, and their names go when they should."""

from __future__ import annotations

import gc
import os
import stat
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest
from tests.support.oracle import outcome

import anyio_uring

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("tiers"),
    pytest.mark.tiers("auto", "ring", "thread"),
    pytest.mark.hosts("asyncio", "uvloop", "trio"),
]

CLASSES = ["TemporaryFile", "NamedTemporaryFile", "SpooledTemporaryFile"]
SHAPES: list[dict[str, Any]] = [
    {},
    {"buffering": 0},
    {"buffering": 16},
    {"mode": "a+b"},
    {"mode": "xb"},
    {"mode": "w+"},
    {"mode": "w+", "encoding": "utf-16", "newline": "\r\n"},
    {"mode": "w+t", "encoding": "ascii", "errors": "replace", "buffering": 1},
    {"mode": "a+", "encoding": "utf-8"},
    {"mode": "r+b"},
    {"mode": "rb"},
]
WRONG: list[dict[str, Any]] = [
    {"mode": "q"},
    {"mode": "w+", "buffering": 0},
    {"encoding": "utf-8"},
    {"newline": "\n"},
    {"mode": "w+", "encoding": "no such encoding"},
    {"mode": "w+", "newline": "no newline"},
    {"mode": "w", "errors": "no such handler", "encoding": "utf-8"},
    {"suffix": b"bytes", "prefix": "text"},
    {"dir": "/no/such/folder"},
    {"dir": "/tmp\0folder"},
    {"buffering": "x"},
    {"buffering": 2.5},
]


def script(text: bool) -> list[Callable[[Any], Any]]:
    first, second = ("é\nline\n", "x" * 40) if text else (b"\xe9\nline\n", b"x" * 40)
    return [
        lambda f: f.write(first),
        lambda f: f.tell(),
        lambda f: f.writelines([second, first]),
        lambda f: f.seek(0),
        lambda f: f.readline(),
        lambda f: f.read(3),
        lambda f: f.readlines(),
        lambda f: f.write(second),
        lambda f: f.flush(),
        lambda f: f.seek(0, os.SEEK_END),
        lambda f: f.truncate(10),
        lambda f: f.seek(2),
        lambda f: f.read(),
        lambda f: f.seek(0),
        lambda f: f.write(second[:2]),
        lambda f: f.tell(),
        lambda f: f.seek(0),
        lambda f: f.read(),
        lambda f: f.closed,
        lambda f: f.aclose(),
        lambda f: f.closed,
        lambda f: f.read(),
        lambda f: f.write(first),
        lambda f: f.aclose(),
    ]


@pytest.mark.parametrize("kind", CLASSES[:2])
@pytest.mark.hosts("asyncio", "trio")
@pytest.mark.tiers("auto", "thread")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
async def test_file_behaves_as_anyios(kind: str, shape: dict[str, Any], tmp_path: Path) -> None:
    arguments: dict[str, Any] = {**shape, "dir": str(tmp_path)}
    theirs = getattr(anyio, kind)(**arguments)
    ours = getattr(anyio_uring, kind)(**arguments)
    assert isinstance(ours, getattr(anyio, kind))
    async with theirs as oracle, ours as file:
        assert isinstance(file, anyio_uring.AsyncFile)
        assert file.mode == oracle.mode
        assert type(file.name) is type(oracle.name)
        assert len(list(tmp_path.iterdir())) == (2 if kind == "NamedTemporaryFile" else 0)
        mode = os.fstat(file.fileno()).st_mode
        assert mode == os.fstat(oracle.wrapped.fileno()).st_mode == stat.S_IFREG | 0o600
        for number, call in enumerate(script("b" not in shape.get("mode", "b"))):
            expected = await outcome(call, oracle)
            assert await outcome(call, file) == expected, number
        assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", CLASSES[:2])
@pytest.mark.hosts("asyncio")
@pytest.mark.tiers("auto", "thread")
@pytest.mark.parametrize("shape", WRONG, ids=str)
async def test_wrong_arguments_raise_what_anyios_do(
    kind: str, shape: dict[str, Any], tmp_path: Path
) -> None:
    arguments: dict[str, Any] = {"dir": str(tmp_path), **shape}

    async def enter(module: Any) -> tuple[Any, ...]:
        async def use(file: Any) -> None:
            async with file:
                pass

        return await outcome(use, getattr(module, kind)(**arguments))

    assert await enter(anyio_uring) == await enter(anyio)
    gc.collect()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "O_TMPFILE"), reason="the system has no O_TMPFILE")
async def test_nameless_file_is_made_without_a_name_or_falls_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    named: list[str] = []
    mkstemp = tempfile.mkstemp

    def counted(*args: Any) -> tuple[int, Any]:
        made = mkstemp(*args)
        named.append(made[1])
        return made

    monkeypatch.setattr(tempfile, "mkstemp", counted)
    async with anyio_uring.TemporaryFile(dir=str(tmp_path)) as file:
        await file.write(b"data")
    assert named == []
    monkeypatch.setattr(os, "O_TMPFILE", os.O_DIRECTORY)  # the kernel refuses that for writing
    async with anyio_uring.TemporaryFile(dir=str(tmp_path)) as file:
        await file.write(b"data")
        await file.seek(0)
        assert await file.read() == b"data"
    assert len(named) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("delete", [True, False])
@pytest.mark.parametrize("on_close", [True, False])
@pytest.mark.parametrize("mode", ["w+b", "w+"])
async def test_name_goes_as_the_rules_say(
    delete: bool, on_close: bool, mode: Any, tmp_path: Path
) -> None:
    block: Any = anyio_uring.NamedTemporaryFile(
        mode, dir=str(tmp_path), delete=delete, delete_on_close=on_close
    )
    async with block as file:
        path = Path(file.name)
        assert file.delete is delete
        await file.aclose()
        late = not on_close and sys.version_info >= (3, 12)
        assert path.exists() == (not delete or late)
    assert path.exists() == (not delete)


@pytest.mark.parametrize("on_close", [True, False])
@pytest.mark.parametrize("close", [lambda f: f.aclose(), lambda f: f.close()])
async def test_name_removed_by_somebody_else_is_what_it_is_to_anyios(
    on_close: bool, close: Callable[[Any], Any], tmp_path: Path
) -> None:
    """(before Python 3.12 it is an error)"""
    found = []
    for module in (anyio, anyio_uring):
        arguments: dict[str, Any] = {"dir": str(tmp_path), "delete_on_close": on_close}
        async with module.NamedTemporaryFile(**arguments, delete=False) as kept:
            pass
        block = module.NamedTemporaryFile(**arguments)
        file = await block.__aenter__()
        os.unlink(file.name)
        outcomes = [await outcome(close, file)]
        assert file.closed
        outcomes.append(await outcome(close, file))
        outcomes.append(await outcome(lambda b: b.__aexit__(None, None, None), block))
        found.append(outcomes)
        del block, file
        gc.collect()
        os.unlink(kept.name)
    assert found[1] == found[0]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="flags of open files are POSIX's")
@pytest.mark.parametrize("kind", CLASSES[:2])
@pytest.mark.hosts("asyncio")
@pytest.mark.parametrize("mode", ["rb", "wb", "a+b", "w"])
async def test_descriptor_can_do_what_anyios_can(kind: str, mode: str, tmp_path: Path) -> None:
    import fcntl

    flags = []
    for module in (anyio, anyio_uring):
        async with getattr(module, kind)(mode, dir=str(tmp_path)) as file:
            found = fcntl.fcntl(file.fileno(), fcntl.F_GETFL)
            flags.append(found & (os.O_RDWR | os.O_WRONLY | os.O_APPEND))
            if module is anyio_uring and kind == "TemporaryFile":
                path = f"/proc/self/fd/{file.fileno()}"
                with pytest.raises(OSError, match=r".*"):  # nobody can give it a name
                    os.link(path, tmp_path / "name", follow_symlinks=True)
    assert flags[1] == flags[0]


@pytest.mark.parametrize("mode", ["w+b", "w+"])
async def test_named_file_that_was_detached_still_has_its_name(mode: Any, tmp_path: Path) -> None:
    block = anyio_uring.NamedTemporaryFile(mode, dir=str(tmp_path))
    file: Any = await block.__aenter__()
    below = file.detach()
    assert [file.name] == [str(path) for path in tmp_path.iterdir()]
    with pytest.raises(ValueError, match="has been detached"):
        await block.__aexit__(None, None, None)
    assert list(tmp_path.iterdir()) == []
    await below.aclose()


async def test_named_file_closed_synchronously_or_collected_leaves_no_name(tmp_path: Path) -> None:
    file = await anyio_uring.NamedTemporaryFile(dir=str(tmp_path)).__aenter__()
    file.close()
    assert list(tmp_path.iterdir()) == []
    block = anyio_uring.NamedTemporaryFile(dir=str(tmp_path))
    await block.__aenter__()
    del file
    blocks = [block]
    del block

    def drop() -> None:
        blocks.clear()
        gc.collect()

    with pytest.warns(ResourceWarning, match="unclosed file"):
        drop()
    assert list(tmp_path.iterdir()) == []


async def test_file_that_is_made_but_cannot_be_opened_leaves_no_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise MemoryError

    for module in (anyio_uring._temporary,):
        monkeypatch.setattr(module, "as_text", fail)
    with pytest.warns(ResourceWarning), pytest.raises(MemoryError):
        async with anyio_uring.NamedTemporaryFile("w", dir=str(tmp_path)):
            pass
    gc.collect()
    assert list(tmp_path.iterdir()) == []


async def test_directory_behaves_as_anyios(tmp_path: Path) -> None:
    for delete in (True, False):
        arguments: dict[str, Any] = {"prefix": "p", "dir": str(tmp_path), "delete": delete}
        kept = not delete and sys.version_info >= (3, 12)
        for module in (anyio, anyio_uring):
            block = module.TemporaryDirectory(**arguments)
            assert isinstance(block, anyio.TemporaryDirectory)
            async with block as path:
                assert isinstance(path, str)
                (Path(path) / "file").touch()
                assert os.stat(path).st_mode == stat.S_IFDIR | 0o700
            assert os.path.exists(path) == kept
            await block.cleanup()
            await block.cleanup()
            assert list(tmp_path.iterdir()) == []


async def test_functions_return_what_tempfiles_do(tmp_path: Path) -> None:
    assert await anyio_uring.gettempdir() == tempfile.gettempdir()
    assert await anyio_uring.gettempdirb() == tempfile.gettempdirb()
    fd, path = await anyio_uring.mkstemp(".s", "p", str(tmp_path), True)
    os.close(fd)
    fd, bytes_path = await anyio_uring.mkstemp(dir=os.fsencode(tmp_path))
    os.close(fd)
    folder = await anyio_uring.mkdtemp(".s", "p", str(tmp_path))
    bytes_folder = await anyio_uring.mkdtemp(dir=os.fsencode(tmp_path))
    assert path.endswith(".s")
    made = {path, os.fsdecode(bytes_path), folder, os.fsdecode(bytes_folder)}
    assert made == {str(entry) for entry in tmp_path.iterdir()}
    with pytest.raises(FileNotFoundError):
        await anyio_uring.mkdtemp(dir="/no/such/folder")


@pytest.mark.tiers("thread")
async def test_temporary_folder_is_looked_for_in_a_thread_once(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    before = anyio_uring.statistics().thread
    assert await anyio_uring.gettempdir() == str(tmp_path)
    assert await anyio_uring.gettempdir() == str(tmp_path)
    assert anyio_uring.statistics().thread == before + 1
