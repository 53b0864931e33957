"""Trio's flavour of `Path` beside `pathlib.Path`, and beside Trio's own, which stands most of these
tests, too.
"""

from __future__ import annotations

import copy
import inspect
import os
import pathlib
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import trio
import trio.testing
from tests.conftest import Tiers
from tests.support.trees import CALLS, NAMES, build, check_tiers, same_as_pathlib, settled, snapshot

import anyio_uring.trio
from anyio_uring.trio import Path, PosixPath, TrioFile, WindowsPath

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.hosts("trio"),
    pytest.mark.usefixtures("tiers", "anyio_backend"),
]

Flavour = type[trio.Path]

OURS = [name for name in vars(Path) if not name.startswith("_")]
# Errors that a call on something else than it wants must not turn into a missing checkpoint
FAILING: list[Callable[[Any], Any]] = [
    lambda root: (root / "dir").mkdir(),
    lambda root: (root / "file").rmdir(),
    lambda root: (root / "nowhere").unlink(),
    lambda root: (root / "nowhere").rename(root / "other"),
    lambda root: (root / "nowhere").replace(root / "other"),
    lambda root: (root / "file").symlink_to("file"),
    lambda root: (root / "file").hardlink_to(root / "file"),
    lambda root: (root / "file").touch(exist_ok=False),
    lambda root: (root / "dir").write_bytes(b"other"),
    lambda root: (root / "dir").write_text("other"),
    lambda root: (root / "file").write_text(b"bytes"),
    lambda root: (root / "dir").read_bytes(),
    lambda root: (root / "bad").read_text("utf-8"),
    lambda root: (root / "file").read_text("nonsense"),
    lambda root: (root / "nowhere").stat(),
    lambda root: (root / "n\0l").stat(),
    lambda root: (root / "nowhere").samefile(root),
    lambda root: (root / "nowhere").open(),
    lambda root: (root / "nowhere").open("q"),
    lambda root: (root / "file").open(3),
    lambda root: settled((root / "nowhere").iterdir()),
]
ANSWERS = [
    *("exists", "is_dir", "is_file", "is_symlink", "is_socket", "is_fifo"),
    *("is_block_device", "is_char_device", "lstat", "stat", "read_bytes"),
]


@pytest.fixture(params=[trio.Path, Path], ids=["trio", "ours"])
def flavour(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture
def root(tmp_path: pathlib.Path, flavour: Flavour) -> trio.Path:
    build(tmp_path / "tree")
    return flavour(tmp_path / "tree")


# -- results ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES, ids=[name[:20].replace("\0", "NUL") for name in NAMES])
async def test_every_operation_on_everything(tmp_path: pathlib.Path, name: str) -> None:
    await same_as_pathlib(tmp_path, name, Path)


async def test_samefile_takes_a_path_of_either_flavour(tmp_path: pathlib.Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "link").symlink_to("file")
    for kind in (str, pathlib.Path, trio.Path, Path):
        assert await Path(tmp_path / "file").samefile(kind(tmp_path / "link"))
        assert not await Path(tmp_path / "file").samefile(kind(tmp_path))


async def test_files_it_opens_are_those_of_the_flavour(tmp_path: pathlib.Path) -> None:
    async with await Path(tmp_path / "file").open("w", -1, "utf-16", "replace", "\r\n") as file:
        assert isinstance(file, TrioFile)
        await file.write("a\n")
        assert (file.encoding, file.errors, file.name) == ("utf-16", "replace", f"{tmp_path}/file")
    assert (tmp_path / "file").read_bytes().decode("utf-16") == "a\r\n"
    async with await Path(tmp_path / "file").open("rb", 0) as raw:
        assert hasattr(raw, "readall")
        assert not hasattr(raw, "peek")


def test_missing_encoding_is_the_callers_to_name(tmp_path: pathlib.Path) -> None:
    program = (
        "import trio, anyio_uring.trio\n"
        "async def main():\n"
        f"    path = anyio_uring.trio.Path({str(tmp_path / 'file')!r})\n"
        "    await path.write_text('x')\n"
        "    await path.read_text()\n"
        "    await (await path.open()).aclose()\n"
        "    await (await path.open('rb')).aclose()\n"
        "trio.run(main)\n"
    )
    command = [sys.executable, "-X", "warn_default_encoding", "-W", "always::EncodingWarning"]
    done = subprocess.run([*command, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    warned = [line for line in done.stderr.splitlines() if "EncodingWarning" in line]
    assert [
        line.split(": ")[0] for line in warned if "anyio_uring" in line or "<string>" in line
    ] == ["<string>:4", "<string>:5", "<string>:6"]


# -- what it is ---------------------------------------------------------------------------------


def test_it_is_a_path_of_trio_and_of_pathlib() -> None:
    path = Path("a", "b")
    assert type(path) is (WindowsPath if os.name == "nt" else PosixPath)
    assert isinstance(path, trio.Path)
    assert isinstance(path, pathlib.PurePath)
    assert repr(path) == repr(trio.Path("a", "b"))
    for other in trio.Path("a/b"), pathlib.Path("a/b"):
        assert path == other
        assert hash(path) == hash(other)
        assert path < other / "c"
    assert not hasattr(path, "__dict__")
    with pytest.raises(TypeError):
        Path(1)  # type: ignore[arg-type]


async def test_paths_made_of_it_keep_their_class(tmp_path: pathlib.Path) -> None:
    class Own(PosixPath):
        pass

    for kind in (PosixPath, Own):
        (tmp_path / "a").write_bytes(b"x")
        path = kind(tmp_path)
        made = [path / "a", os.fspath(tmp_path) / kind("a"), path.parent, *path.parents]
        made += [path.with_name("b"), path.joinpath("c"), path.relative_to("/"), copy.copy(path)]
        made += [await (path / "a").rename(tmp_path / "b"), await path.resolve()]
        made += [*await path.iterdir(), *await path.glob("*"), *await path.rglob("*")]
        made += [await (path / "b").replace(os.fspath(tmp_path / "c")), await path.absolute()]
        made += [await kind.cwd(), await kind.home()]
        assert {type(found) for found in made} == {kind}
    assert pickle.loads(pickle.dumps(Path("a"))) == Path("a")
    assert type(pickle.loads(pickle.dumps(Path("a")))) is type(Path("a"))


@pytest.mark.parametrize("name", OURS)
def test_signature_begins_as_that_of_trio(name: str) -> None:
    assert inspect.iscoroutinefunction(getattr(Path, name))
    parameters = [
        [
            (parameter.name, parameter.kind, parameter.default)
            for parameter in inspect.signature(getattr(kind, name)).parameters.values()
        ]
        for kind in (trio.Path, Path)
    ]
    assert parameters[1][: len(parameters[0])] == parameters[0]


def test_every_method_of_trio_is_there() -> None:
    missing = [name for name in dir(trio.Path) if not hasattr(Path, name)]
    assert missing == []


async def test_lists_are_awaited_and_loaded(root: trio.Path) -> None:
    for listing in root.iterdir(), root.glob("*"), root.rglob("*"):
        found = await listing
        assert not hasattr(found, "__anext__")
        await (root / "late").touch()
        names = [path.name for path in found]
        assert "late" not in names
        assert "file" in names
        await (root / "late").unlink()


# -- checkpoints --------------------------------------------------------------------------------


@pytest.mark.parametrize("call", CALLS, ids=range(len(CALLS)))
async def test_each_call_is_a_checkpoint(root: trio.Path, call: Callable[[Any], Any]) -> None:
    with trio.testing.assert_checkpoints():
        await call(root)


@pytest.mark.parametrize("name", ANSWERS)
async def test_each_answer_is_a_checkpoint_from_memory_too(root: trio.Path, name: str) -> None:
    for path in root / "file", root / "nowhere":
        for _ in range(3):
            with trio.testing.assert_checkpoints():
                try:
                    await getattr(path, name)()
                except FileNotFoundError:
                    pass


@pytest.mark.parametrize("call", FAILING, ids=range(len(FAILING)))
async def test_each_failure_is_a_checkpoint(root: trio.Path, call: Callable[[Any], Any]) -> None:
    with (
        trio.testing.assert_checkpoints(),
        pytest.raises((OSError, ValueError, TypeError, LookupError)),
    ):
        await call(root)


@pytest.mark.parametrize("call", CALLS, ids=range(len(CALLS)))
async def test_cancelled_before_it_begins(
    tmp_path: pathlib.Path, root: trio.Path, call: Callable[[Any], Any]
) -> None:
    before = snapshot(tmp_path / "tree")
    with trio.CancelScope() as scope:
        scope.cancel()
        await call(root)
        pytest.fail("not cancelled")
    assert scope.cancelled_caught
    assert snapshot(tmp_path / "tree") == before


async def test_write_that_has_begun_is_not_abandoned(root: trio.Path) -> None:
    """To open a FIFO for writing is to wait for a reader, which comes after the cancellation."""
    written: list[int] = []

    async def write(scope: trio.CancelScope) -> None:
        with scope:
            written.append(await (root / "fifo").write_bytes(b"through the pipe"))

    fifo = os.fspath(root / "fifo")
    scope = trio.CancelScope()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write, scope)
        await trio.testing.wait_all_tasks_blocked()
        scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert await trio.to_thread.run_sync(pathlib.Path(fifo).read_bytes) == b"through the pipe"
    assert written == [16]
    assert not scope.cancelled_caught


# -- tiers --------------------------------------------------------------------------------------


async def test_which_tier_serves(tmp_path: pathlib.Path, tiers: Tiers) -> None:
    await check_tiers(Path, tmp_path, tiers)


async def test_module_has_the_paths() -> None:
    assert {"Path", "PosixPath", "WindowsPath"} <= set(anyio_uring.trio.__all__)
