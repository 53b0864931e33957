"""AnyIO's and Trio's names, served by us: from when to when, which ones, and exactly undone."""

from __future__ import annotations

import functools
import inspect
import itertools
import os
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from types import FunctionType
from typing import Any

import anyio
import pytest
import trio
from anyio import NamedTemporaryFile, SpooledTemporaryFile, TemporaryDirectory, TemporaryFile
from anyio import open_file as imported_early
from anyio.streams.file import FileReadStream, FileWriteStream
from tests.conftest import Tiers

import anyio_uring
import anyio_uring.trio
from anyio_uring import InstallError, _install, _targets, install, statistics
from anyio_uring._handle import COMPILED

TARGETS = ["anyio", "trio"]
CLASSES: list[Any] = [
    anyio.Path,
    anyio.TemporaryFile,
    anyio.NamedTemporaryFile,
    anyio.SpooledTemporaryFile,
    anyio.TemporaryDirectory,
    FileReadStream,
    FileWriteStream,
    trio.Path,
]


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    """Nothing is installed before a test and after it."""
    before = snapshot()
    yield
    assert snapshot() == before
    assert set(_install._wanted.values()) == {0}


@pytest.fixture
def unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    """The targets have not been looked at yet."""
    monkeypatch.setattr(_install, "_swapped", {})


def functions() -> list[Any]:
    return [swap.function for target in _targets.TARGETS for swap in _targets.swaps_of(target)]


def snapshot() -> list[Any]:
    return [
        *[(function, function.__code__, vars(function)) for function in functions()],
        *[dict(vars(kind)) for kind in CLASSES],
        *[(id(module.open_file), module.open_file) for module in (anyio, trio)],
    ]


def is_served(target: str) -> bool:
    """Asked by what it does."""

    async def kind() -> type:
        module: Any = {"anyio": anyio, "trio": trio}[target]
        async with await module.open_file(os.devnull, "rb") as file:
            return type(file)

    found = anyio.run(kind, backend="trio")
    ours = {"anyio": anyio_uring.AsyncFile, "trio": anyio_uring.trio.TrioFile}[target]
    return issubclass(found, ours)


def served() -> set[str]:
    return {target for target in TARGETS if is_served(target)}


# -- from when to when ----------------------------------------------------------------------------


def test_installed_until_the_end_of_the_block() -> None:
    assert served() == set()
    with install() as installation:
        assert served() == {"anyio"}
        assert "anyio.open_file" in installation.patched
        assert "anyio.Path.stat" in installation.patched
        assert not any(name.startswith("trio") for name in installation.patched)
        assert installation.skipped == {}
    assert served() == set()


def test_only_what_is_asked_for() -> None:
    with install(anyio=False, trio=True) as installation:
        assert served() == {"trio"}
        assert all(name.startswith("trio.") for name in installation.patched)
    with install(anyio=False) as installation:
        assert served() == set()
        assert installation.patched == ()


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_several_installations_end_in_any_order(order: tuple[int, ...]) -> None:
    wanted = [{"anyio"}, {"anyio", "trio"}, {"trio"}]
    installations = {
        number: install(anyio="anyio" in targets, trio="trio" in targets)
        for number, targets in enumerate(wanted)
    }
    for number in order:
        assert served() == set().union(*(wanted[number] for number in installations))
        installations.pop(number).uninstall()
    assert served() == set()


def test_uninstalling_twice_is_as_good_as_once() -> None:
    first, second = install(), install()
    first.uninstall()
    first.uninstall()
    assert served() == {"anyio"}
    second.uninstall()
    assert served() == set()


def test_functions_look_as_before() -> None:
    def look() -> list[Any]:
        return [
            (
                inspect.signature(function),
                inspect.signature(function, follow_wrapped=False),
                function.__doc__,
                function.__annotations__,
                inspect.iscoroutinefunction(function),
                inspect.isasyncgenfunction(function),
            )
            for function in functions()
        ]

    before = look()
    with install(trio=True, to_thread=True):
        assert look() == before


def test_installing_while_a_loop_runs_and_files_are_open(tmp_path: Path) -> None:
    async def main() -> None:
        async with await anyio.open_file(tmp_path / "file", "wb") as theirs:
            waiting = imported_early(tmp_path / "other", "wb")  # has its old body
            with install():
                async with await waiting as other:
                    assert not isinstance(other, anyio_uring.AsyncFile)
                ours = await imported_early(tmp_path / "file", "r+b")
                assert isinstance(ours, anyio_uring.AsyncFile)
                await theirs.write(b"from theirs")
                await theirs.flush()
            async with ours:
                assert await ours.read() == b"from theirs"
                await ours.write(b", from ours")
        assert (tmp_path / "file").read_bytes() == b"from theirs, from ours"

    anyio.run(main)


def test_installing_in_threads_while_files_are_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"content")
    stop = threading.Event()
    errors: list[BaseException] = []

    async def use() -> None:
        while not stop.is_set():
            async with await anyio.open_file(tmp_path / "file", "rb") as file:
                assert await file.read() == b"content"
            assert (await anyio.Path(tmp_path / "file").stat()).st_size == 7
            assert (await anyio.to_thread.run_sync(os.stat, tmp_path / "file")).st_size == 7
            assert [path.name async for path in anyio.Path(tmp_path).iterdir()] == ["file"]

    def work(function: Any, *arguments: Any) -> None:
        try:
            function(*arguments)
        except BaseException as error:  # noqa: BLE001
            errors.append(error)
            stop.set()

    installations: list[None] = []

    def swap_often(number: int) -> None:
        for count in range(2500):
            with install(
                anyio=count % 3 != 0, trio=count % 2 == 0, to_thread=count % 5 != 0, strict=True
            ):
                installations.append(None)

    users = [threading.Thread(target=work, args=(anyio.run, use)) for _ in range(2)]
    swappers = [threading.Thread(target=work, args=(swap_often, n)) for n in range(4)]
    for thread in users + swappers:
        thread.start()
    for thread in swappers:
        thread.join()
    stop.set()
    for thread in users:
        thread.join()
    assert errors == []
    assert len(installations) == 10_000


# -- what is served -------------------------------------------------------------------------------


@pytest.fixture
def installed() -> Iterator[None]:
    with install(trio=True, strict=True):
        yield


@pytest.mark.anyio
async def test_open_file(tiers: Tiers, installed: None, tmp_path: Path) -> None:
    async with await imported_early(tmp_path / "file", "w", encoding="utf-8") as file:
        assert isinstance(file, anyio_uring.AsyncFile)
        assert isinstance(file, anyio.AsyncFile)
        await file.write("some text\n")
    async with await anyio.open_file(tmp_path / "file", "rb") as binary:
        assert await binary.read() == b"some text\n"
        assert binary.name == str(tmp_path / "file")
    counts = statistics()
    assert counts.now + counts.ring + counts.thread > 0


class Derived(anyio.Path):
    """A user's."""


@pytest.mark.anyio
@pytest.mark.parametrize("kind", [anyio.Path, Derived])
async def test_paths(tiers: Tiers, tmp_path: Path, kind: type[anyio.Path]) -> None:
    path = kind(tmp_path) / "file"  # made before
    with install():
        assert await path.write_text("text", encoding="utf-8") == 4
        assert await path.read_bytes() == b"text"
        assert (await path.stat()).st_size == 4
        assert await path.exists()
        async with await path.open("ab") as file:
            assert isinstance(file, anyio_uring.AsyncFile)
            await file.write(b" and more")
        moved = await path.rename(tmp_path / "other")
        assert type(moved) is kind
        found = [entry async for entry in kind(tmp_path).iterdir()]
        assert (found, [type(entry) for entry in found]) == ([moved], [kind])
        assert [entry async for entry in kind(tmp_path).glob("o*")] == [moved]
        with pytest.raises(FileNotFoundError) as caught:
            await path.unlink()
        assert caught.value.filename == str(path)
        counts = statistics()
        assert counts.now + counts.ring + counts.thread > 0
    assert await moved.read_text(encoding="utf-8") == "text and more"


@pytest.mark.anyio
async def test_subclass_may_ask_its_other_methods(
    tiers: Tiers, installed: None, tmp_path: Path
) -> None:
    class Links(anyio.Path):
        async def stat(self, *, follow_symlinks: bool = True) -> os.stat_result:
            return await super().lstat()

    (tmp_path / "link").symlink_to("nowhere")
    assert (await Links(tmp_path / "link").stat()).st_size == len("nowhere")


@pytest.mark.anyio
async def test_listing_is_closed_early(tiers: Tiers, installed: None, tmp_path: Path) -> None:
    for number in range(100):
        (tmp_path / str(number)).touch()
    entries = anyio.Path(tmp_path).iterdir()
    await anext(entries)
    await entries.aclose()  # type: ignore[attr-defined]
    assert [entry async for entry in entries] == []


@pytest.mark.anyio
async def test_temporary_files(tiers: Tiers, installed: None) -> None:
    async with TemporaryFile() as nameless:
        assert isinstance(nameless, anyio_uring.AsyncFile)
        await nameless.write(b"data")
    async with NamedTemporaryFile("w+", encoding="utf-8", suffix=".txt") as named:
        assert isinstance(named, anyio_uring.AsyncFile)
        assert str(named.name).endswith(".txt")
        assert os.path.exists(named.name)
        await named.write("data")
    assert not os.path.exists(named.name)
    async with TemporaryDirectory() as directory:
        assert os.path.isdir(directory)
    assert not os.path.exists(directory)
    handle, path = await anyio.mkstemp()
    os.close(handle)
    os.unlink(path)
    os.rmdir(await anyio.mkdtemp())


@pytest.mark.anyio
@pytest.mark.parametrize("mode", ["w+b", "w+"])
async def test_spooled_file_that_moves(tiers: Tiers, installed: None, mode: Any) -> None:
    some = b"some" if "b" in mode else "some"
    async with SpooledTemporaryFile[Any](max_size=10, mode=mode) as file:
        await file.write(some)
        assert type(file) is SpooledTemporaryFile
        await file.write(some * 3)
        assert isinstance(file, anyio_uring.SpooledTemporaryFile)
        await file.seek(0)
        assert await file.read() == some * 4


@pytest.mark.anyio
async def test_streams(tiers: Tiers, installed: None, tmp_path: Path) -> None:
    path = tmp_path / "file"
    async with await FileWriteStream.from_path(path) as writer:
        assert isinstance(writer, anyio_uring.FileWriteStream)
        await writer.send(b"some ")
    async with await FileWriteStream.from_path(path, append=True) as writer:
        await writer.send(b"data")
    async with await FileReadStream.from_path(path) as reader:
        assert isinstance(reader, anyio_uring.FileReadStream)
        assert await reader.receive() == b"some data"


@pytest.mark.anyio
async def test_subclasses_of_streams_and_spooled_files_get_what_they_expect(
    tiers: Tiers, installed: None, tmp_path: Path
) -> None:
    (tmp_path / "file").write_bytes(b"content")

    class Reader(FileReadStream):
        def peek(self) -> bytes:
            return self._file.peek(3)[:3]  # type: ignore[attr-defined,no-any-return]

    class Spooled(SpooledTemporaryFile[bytes]):
        pass

    async with await Reader.from_path(tmp_path / "file") as reader:
        assert type(reader) is Reader
        assert reader.peek() == b"con"
    async with Spooled(max_size=1) as spooled:
        await spooled.write(b"data")
        assert type(spooled) is Spooled
        await spooled.seek(0)
        assert await spooled.read() == b"data"


@pytest.mark.anyio
async def test_what_was_entered_before_is_left_as_it_was(tiers: Tiers, tmp_path: Path) -> None:
    theirs = [NamedTemporaryFile[bytes](), TemporaryFile[bytes](), TemporaryDirectory[str]()]
    for item in theirs:
        await item.__aenter__()  # type: ignore[attr-defined]
    path = theirs[0]._async_file.name  # type: ignore[union-attr]
    with install():
        for item in theirs:
            await item.__aexit__(None, None, None)  # type: ignore[attr-defined]
        assert not os.path.exists(path)
        ours = NamedTemporaryFile[bytes]()
        path = (await ours.__aenter__()).name
    await ours.__aexit__(None, None, None)
    assert os.path.exists(path) == (ours._async_file._remove is not None)  # type: ignore[attr-defined]


@pytest.mark.anyio
async def test_named_file_entered_again_without_us(tiers: Tiers, tmp_path: Path) -> None:
    named = NamedTemporaryFile[bytes](dir=os.fspath(tmp_path))
    with install():
        await named.__aenter__()
    await named.__aexit__(None, None, None)
    theirs = await named.__aenter__()
    with install():
        await named.__aexit__(None, None, None)
    assert theirs.wrapped.closed
    assert list(tmp_path.iterdir()) == []


@pytest.mark.anyio
async def test_named_file_that_could_not_be_entered_at_first(tiers: Tiers, tmp_path: Path) -> None:
    named = NamedTemporaryFile[bytes](dir=os.fspath(tmp_path / "late"))
    with install(), pytest.raises(FileNotFoundError):
        await named.__aenter__()
    (tmp_path / "late").mkdir()
    theirs = await named.__aenter__()
    with install():
        await named.__aexit__(None, None, None)
    assert theirs.wrapped.closed


@pytest.mark.anyio
@pytest.mark.hosts("trio")
async def test_trio(tiers: Tiers, installed: None, tmp_path: Path) -> None:
    path = trio.Path(tmp_path) / "file"
    async with await trio.open_file(path, "w", encoding="utf-8") as file:
        assert isinstance(file, anyio_uring.trio.TrioFile)
        await file.write("text")
    assert (await path.stat()).st_size == 4
    async with await path.open("rb") as file:
        assert isinstance(file, anyio_uring.trio.TrioFile)
        assert await file.read() == b"text"
    moved = await path.rename(tmp_path / "other")
    assert type(moved) is type(path)
    assert await moved.exists()


# -- what cannot be served ------------------------------------------------------------------------


@pytest.mark.usefixtures("unknown")
@pytest.mark.parametrize("strict", [False, True])
def test_function_that_is_not_as_expected(monkeypatch: pytest.MonkeyPatch, strict: bool) -> None:
    async def open_file(file: Any, mode: str = "r", new: int = 1) -> None:
        raise AssertionError

    theirs = FunctionType(open_file.__code__, vars(sys.modules[imported_early.__module__]))
    theirs.__defaults__ = open_file.__defaults__
    monkeypatch.setattr(anyio, "open_file", theirs)
    before = snapshot()
    reason = "anyio.open_file has a parameter new=1 that was not expected"
    if strict:
        with pytest.raises(InstallError, match=reason) as caught:
            install(trio=True, strict=True)
        assert caught.value.target == "anyio"
        assert caught.value.version == _targets.version_of("anyio")
        assert snapshot() == before
    else:
        with pytest.warns(RuntimeWarning, match=reason) as warned:
            installation = install(trio=True)
        assert warned[0].filename == __file__
        assert installation.skipped == {"anyio": reason}
        assert all(name.startswith("trio.") for name in installation.patched)
        assert (
            snapshot()[: len(_targets.swaps_of("anyio"))]
            == before[: len(_targets.swaps_of("anyio"))]
        )
        assert served_by_name() == {"trio"}
        installation.uninstall()


def served_by_name() -> set[str]:
    return {target for target, count in _install._wanted.items() if count}


@pytest.mark.usefixtures("unknown")
def test_function_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(anyio.TemporaryDirectory, "cleanup")
    with pytest.warns(RuntimeWarning, match="is left as it is: something is missing: 'cleanup'"):
        assert install().patched == ()
    monkeypatch.undo()


@pytest.mark.usefixtures("unknown")
def test_function_that_was_wrapped_before(monkeypatch: pytest.MonkeyPatch) -> None:
    @functools.wraps(anyio.open_file)
    async def audited(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError

    reason = f"anyio.open_file has been replaced by a function of {__name__}"
    with monkeypatch.context() as patch:
        patch.setattr(anyio, "open_file", audited)
        with pytest.warns(RuntimeWarning, match=reason):
            install()
    with install(strict=True):
        assert served() == {"anyio"}
    with monkeypatch.context() as patch:  # it is known by now
        patch.setattr(anyio, "open_file", audited)
        with pytest.warns(RuntimeWarning, match=reason):
            install()


@pytest.mark.usefixtures("unknown")
def test_function_that_was_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(anyio.Path, "stat", len)
    with pytest.warns(RuntimeWarning, match=r"anyio\.Path\.stat is no Python function"):
        assert install().patched == ()
    monkeypatch.undo()


@pytest.mark.usefixtures("unknown")
@pytest.mark.parametrize("target", list(_targets.TARGETS))
@pytest.mark.parametrize("version", ["99.0.1", "99rc1", "dev", None])
def test_version_that_is_not_known(
    monkeypatch: pytest.MonkeyPatch, target: str, version: str | None
) -> None:
    def version_of(package: str) -> str:
        if version is None:
            raise PackageNotFoundError(package)
        return version

    monkeypatch.setattr(_targets, "version", version_of)
    with pytest.warns(RuntimeWarning, match=f"{target} {version or 'of unknown'}.* is left as it"):
        installation = install(**{name: name == target for name in _targets.TARGETS})
    assert list(installation.skipped) == [target]


@pytest.mark.usefixtures("unknown")
def test_version_before_its_release_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_targets, "version", lambda target: "4rc1")
    with install(strict=True):
        assert served() == {"anyio"}


@pytest.mark.usefixtures("unknown")
def test_warnings_that_are_errors_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(_targets.TARGETS, "trio", 99)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(RuntimeWarning, match=r"trio .* is left as it is"):
            install(trio=True)
        assert served() == set()
        function: Any = vars(anyio.Path)["lstat"]
        original = function.__code__
        installation = install()
        function.__code__ = original.replace(co_name="other")
        with pytest.raises(RuntimeWarning, match="somebody else"):
            installation.uninstall()
        function.__code__ = original
        assert served() == set()


def test_interrupt_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    serve = _install._serve

    def interrupted(target: str) -> str | None:
        if target == "trio":
            raise KeyboardInterrupt
        return serve(target)

    monkeypatch.setattr(_install, "_serve", interrupted)
    with pytest.raises(KeyboardInterrupt):
        install(trio=True)
    assert served() == set()


def test_trio_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trio", None)
    with pytest.raises(ImportError, match="trio"):
        install(trio=True)


def test_patch_of_somebody_else_on_top_is_left_alone() -> None:
    async def other(path: Any) -> str:
        return "patched"

    function: Any = vars(anyio.Path)["lstat"]
    original = function.__code__
    installation = install()
    ours = function.__code__
    function.__code__ = other.__code__
    message = r"somebody else has patched anyio\.Path\.lstat since"
    with pytest.warns(RuntimeWarning, match=message) as warned:
        installation.uninstall()
    assert warned[0].filename == __file__
    assert function.__code__ is other.__code__
    assert served() == set()
    # He goes, and ours is undone with the next installation
    function.__code__ = ours
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        install().uninstall()
    assert function.__code__ is original


# -- details --------------------------------------------------------------------------------------

WARNS = """
import anyio, trio, sys, anyio_uring
async def main():
    f = await anyio.open_file({path!r})  # here
    await f.aclose()
    path = anyio.Path({path!r})
    await path.read_text()  # here
    await path.write_text("x")  # here
    f = await path.open()  # here
    await f.aclose()
    path = trio.Path({path!r})
    f = await trio.open_file({path!r})  # here
    await f.aclose()
    await path.read_text()  # here
    await path.write_text("x")  # here
    f = await path.open()  # here
    await f.aclose()
with anyio_uring.install(trio=True, strict=True):
    anyio.run(main, backend="trio")
"""


def test_missing_encoding_is_told_of_the_line_that_called(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    script = tmp_path / "script.py"
    script.write_text(WARNS.format(path=str(tmp_path / "file")))
    done = subprocess.run(
        [sys.executable, "-X", "warn_default_encoding", "-W", "always", os.fspath(script)],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = script.read_text().splitlines()
    expected = [number for number, line in enumerate(lines, 1) if "# here" in line]
    told = [
        int(line.split(":")[1])
        for line in done.stderr.splitlines()
        if line.startswith(f"{script}:") and "EncodingWarning" in line
    ]
    assert told == expected, done.stderr


# -- what is opened before anything else is looked at --------------------------------------------

audited: list[Any] | None = None


def hook(event: str, args: tuple[Any, ...]) -> None:
    if audited is None or event != "open" or args[1] is None:  # (no mode: os.open)
        return
    if str(args[0]).endswith(("/told", "/missing")):
        audited.append(args)
        if len(audited) > 3:
            raise LookupError("not allowed")


@pytest.fixture
def hooked() -> Iterator[None]:
    global audited
    if not hook.__dict__:
        sys.addaudithook(hook)
        hook.__dict__["added"] = True
    audited = []
    yield
    audited = None


@pytest.mark.usefixtures("hooked")
@pytest.mark.skipif(not COMPILED, reason="nothing is opened at once without the compiled core")
@pytest.mark.parametrize("kind", [str, Path])
def test_what_is_opened_at_once_is_audited_once_and_not_kept_if_refused(
    tmp_path: Path, kind: Callable[[Path], Any]
) -> None:
    assert audited is not None
    path = kind(tmp_path / "told")
    Path(path).write_bytes(b"content")
    audited.clear()
    with open(path, "rb"):
        expected = list(audited)

    async def main() -> None:
        async with await anyio.open_file(path, "rb") as file:  # the loop's first goes another way
            assert await file.read() == b"content"
        before = statistics().now_opened
        async with await anyio.open_file(path, mode="rb") as file:
            assert await file.read() == b"content"
            assert isinstance(file, anyio.AsyncFile)
        assert statistics().now_opened == before + 1
        assert audited == expected * 3
        fds = os.listdir("/proc/self/fd")
        with pytest.raises(LookupError, match="not allowed"):
            await anyio.open_file(path, "rb")
        assert os.listdir("/proc/self/fd") == fds
        assert statistics().now_opened == before + 1  # nor has it been open for a moment

    with install(strict=True):
        anyio.run(main)


@pytest.mark.usefixtures("hooked")
def test_what_cannot_be_opened_at_once_is_audited_once(tmp_path: Path) -> None:
    assert audited is not None
    path = tmp_path / "missing"
    (tmp_path / "file").touch()

    async def main() -> None:
        async with await anyio.open_file(tmp_path / "file", "rb"):
            pass
        assert audited is not None
        for _ in range(3):  # the kernel remembers it from the second time on
            audited.clear()
            with pytest.raises(FileNotFoundError) as caught:
                await anyio.open_file(path, "rb")
            assert caught.value.filename == os.fspath(path)
            assert [args[:2] for args in audited] == [(os.fspath(path), "r")]

    with install(strict=True):
        anyio.run(main)


def test_traceback_names_what_is_installed(tmp_path: Path) -> None:
    import traceback

    with install(), pytest.raises(FileNotFoundError) as caught:
        anyio.run(anyio.open_file, tmp_path / "missing")
    frames = traceback.extract_tb(caught.value.__traceback__)
    assert "<anyio_uring.install: open_file>" in [frame.filename for frame in frames]


def test_representation() -> None:
    with install() as installation:
        assert repr(installation) == (
            f"<Installation: {len(installation.patched)} functions, skipped: {{}}>"
        )
