"""``anyio.run(main, backend="asyncio_uring")``: AnyIO's files are ours in that run alone."""

from __future__ import annotations

import asyncio
import functools
import gc
import itertools
import os
import subprocess
import sys
import textwrap
import threading
import traceback
import warnings
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import anyio
import pytest
import sniffio
import trio
import trio.testing
from anyio import NamedTemporaryFile, SpooledTemporaryFile, TemporaryDirectory, TemporaryFile
from anyio import open_file as imported_early
from anyio.abc import AsyncBackend
from anyio.from_thread import BlockingPortal, start_blocking_portal
from anyio.streams.file import FileReadStream, FileWriteStream

import anyio_uring
import anyio_uring.trio
from anyio_uring import (
    InstallError,
    Settings,
    _install,
    _private,
    _probe,
    _runtime,
    _scope,
    _targets,
    install,
    statistics,
)

RUNS: dict[str, tuple[str, dict[str, Any]]] = {
    "asyncio": ("asyncio", {}),
    "asyncio-debug": ("asyncio", {"debug": True}),
    "trio": ("trio", {}),
}
if find_spec("uvloop") is not None:
    RUNS["uvloop"] = ("asyncio", {"use_uvloop": True})
DRIVERS = ["thread", *(["uring"] if _probe.probe().available else [])]

each_run = pytest.mark.parametrize("host", RUNS)
each_library = pytest.mark.parametrize("library", ["asyncio", "trio"])


def swaps() -> list[Any]:
    return [swap for target in ("anyio", "trio") for swap in _targets.swaps_of(target)]


def bodies() -> dict[str, CodeType]:
    return {swap.name: swap.function.__code__ for swap in swaps()}


ORIGINALS = bodies()


def changed() -> set[str]:
    """Which functions have another body than at first (== would compare the contents)."""
    return {name for name, code in bodies().items() if code is not ORIGINALS[name]}


@pytest.fixture(autouse=True)
def clean() -> Iterator[None]:
    """Nothing is left of a run."""
    assert changed() == set()
    yield
    assert changed() == set()
    assert set(_install._runs.values()) == {0}
    assert _scope._runs == {}
    with pytest.raises(sniffio.AsyncLibraryNotFoundError):
        sniffio.current_async_library()


def run(host: str, main: Callable[..., Awaitable[Any]], *arguments: Any, **options: Any) -> Any:
    library, its_options = RUNS[host]
    return anyio.run(
        main, *arguments, backend=f"{library}_uring", backend_options={**its_options, **options}
    )


async def kind() -> type:
    async with await imported_early(os.devnull, "rb") as file:
        return type(file)


def is_ours(found: type) -> bool:
    return issubclass(found, anyio_uring.AsyncFile)


async def use_everything(folder: Path) -> list[Any]:
    """One object of each kind that AnyIO opens."""
    path = anyio.Path(folder) / "file"
    found: list[Any] = []
    async with await anyio.open_file(path, "w", encoding="utf-8") as file:
        await file.write("some text")
        found.append(file)
    async with await path.open("rb") as file:
        assert await file.read() == b"some text"
        found.append(file)
    assert (await path.stat()).st_size == 9
    assert await path.read_bytes() == b"some text"
    assert [entry async for entry in anyio.Path(folder).iterdir()] == [path]
    assert [entry async for entry in anyio.Path(folder).glob("f*")] == [path]
    async with TemporaryFile() as nameless, NamedTemporaryFile() as named:
        found += [nameless, named]
    async with SpooledTemporaryFile(max_size=1) as spooled:
        await spooled.write(b"some")
        found.append(spooled)
    async with TemporaryDirectory() as directory:
        assert os.path.isdir(directory)
    async with await FileWriteStream.from_path(path) as writer:
        await writer.send(b"sent")
        found.append(writer)
    async with await FileReadStream.from_path(path) as reader:
        assert await reader.receive() == b"sent"
        found.append(reader)
    await path.unlink()
    return found


async def use_trio(folder: Path) -> list[Any]:
    path = trio.Path(folder) / "file"
    found: list[Any] = []
    async with await trio.open_file(path, "wb") as file:
        found.append(file)
    async with await path.open("rb") as file:
        found.append(file)
    assert (await path.stat()).st_size == 0
    await path.unlink()
    return found


# -- what is served, and where --------------------------------------------------------------------


@each_run
@pytest.mark.parametrize("driver", DRIVERS)
def test_everything_is_served_in_the_run(host: str, driver: Any, tmp_path: Path) -> None:
    async def main() -> None:
        for item in await use_everything(tmp_path):
            assert type(item).__module__.startswith("anyio_uring."), item
        if host == "trio":
            for item in await use_trio(tmp_path):
                assert isinstance(item, anyio_uring.trio.TrioFile)
        else:
            assert not changed() & {name for name in ORIGINALS if name.startswith("trio.")}
        assert statistics().driver == driver

    run(host, main, uring=Settings(driver=driver))
    assert not is_ours(anyio.run(kind))


def originals_executed(function: Callable[[], object]) -> set[str]:
    """Whose original bodies run in this thread meanwhile; nothing of ours may but the question."""
    seen: set[CodeType] = set()
    names = {id(code): name for name, code in ORIGINALS.items()}

    def profile(frame: Any, event: str, argument: Any) -> None:
        if event == "call":
            seen.add(frame.f_code)

    gc.collect()  # loops of other tests, whose end would be seen here
    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(None)
    package = os.path.dirname(anyio_uring.__file__)
    assert {
        os.path.basename(code.co_filename)
        for code in seen
        if code.co_filename.startswith(package) and code.co_filename != __file__
    } <= {"_scope.py"}
    return {names[id(code)] for code in seen if id(code) in names}


@each_library
def test_other_loop_executes_the_original_code_meanwhile(library: str, tmp_path: Path) -> None:
    async def other() -> None:
        for item in await use_everything(tmp_path):
            assert type(item).__module__.partition(".")[0] == "anyio", item
        if library == "trio":
            for item in await use_trio(tmp_path):
                assert not isinstance(item, anyio_uring.trio.TrioFile)

    def work() -> None:
        anyio.run(other, backend=library)

    executed = originals_executed(work)
    assert {"anyio.open_file", "anyio.Path.open", "anyio.Path.iterdir"} <= executed
    assert len(executed) >= 15
    with (
        start_blocking_portal("trio_uring") as first,
        start_blocking_portal("asyncio_uring") as second,
    ):
        assert changed() == set(ORIGINALS)
        assert originals_executed(work) == executed
        assert is_ours(first.call(kind))
        assert is_ours(second.call(kind))
    assert originals_executed(work) == executed


@each_run
def test_tasks_callbacks_and_generators_of_the_run_are_served(host: str) -> None:
    found: list[type] = []

    async def child() -> None:
        found.append(await kind())

    async def generator() -> Any:
        try:
            yield
        finally:  # at the end of the loop
            with anyio.CancelScope(shield=True):
                found.append(await kind())

    left: list[Any] = []

    async def main() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(child)
        found.append(await anyio.to_thread.run_sync(anyio.from_thread.run, kind))
        left.append(generator())
        await anext(left[0])

    run(host, main)
    assert [is_ours(one) for one in found] == [True] * 3


def test_guest_of_a_run_is_another_run() -> None:
    async def main() -> list[bool]:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[Any] = loop.create_future()
        trio.lowlevel.start_guest_run(
            kind, run_sync_soon_threadsafe=loop.call_soon_threadsafe, done_callback=done.set_result
        )
        return [is_ours((await done).unwrap()), is_ours(await kind())]

    assert anyio.run(main, backend="asyncio_uring") == [False, True]


@each_run
def test_functions_behave_outside_of_any_run_as_before(host: str) -> None:
    async def main() -> None:
        with pytest.raises(anyio.NoEventLoopError):
            await anyio.to_thread.run_sync(lambda: imported_early(os.devnull).send(None))
        assert await anyio.to_thread.run_sync(_scope.current_run) is None

    run(host, main)


# -- from when to when ----------------------------------------------------------------------------


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_runs_and_installations_end_in_any_order(order: tuple[int, ...]) -> None:
    portals: dict[int, BlockingPortal] = {}
    stacks = {number: ExitStack() for number in range(4)}
    try:
        for number in order:  # begun in any order, too
            if number < 2:
                portals[number] = stacks[number].enter_context(
                    start_blocking_portal(["asyncio_uring", "trio_uring"][number])
                )
            else:
                stacks[number].enter_context(install(trio=number == 3, strict=True))
        for number in reversed(order) if order[0] < 2 else order:
            assert all(is_ours(portal.call(kind)) for portal in portals.values())
            in_force = bool(stacks.keys() & {2, 3})
            assert is_ours(anyio.run(kind)) == in_force
            asks = _scope.is_scoped in imported_early.__code__.co_consts
            assert asks == (not in_force)  # nothing is asked where everything is served
            portals.pop(number, None)
            stacks.pop(number).close()
    finally:
        for stack in stacks.values():
            stack.close()


@each_run
def test_nothing_is_left_after_an_error(host: str) -> None:
    async def main() -> None:
        assert is_ours(await kind())
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        run(host, main)
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert names.count("run") >= 2
    assert "begin" not in names


def test_runs_and_installations_in_threads(tmp_path: Path) -> None:
    errors: list[BaseException] = []

    def work(function: Callable[[], object]) -> None:
        try:
            for _ in range(30):
                function()
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    async def ours() -> None:
        for _ in range(5):
            assert is_ours(await kind())

    def installed() -> None:
        for _ in range(20):
            with install(trio=True, strict=True):
                pass

    async def theirs() -> None:
        for _ in range(5):
            await kind()

    jobs: list[Callable[[], object]] = [
        functools.partial(run, "asyncio", ours),
        functools.partial(run, "trio", ours),
        functools.partial(anyio.run, theirs),
        installed,
    ]
    threads = [threading.Thread(target=work, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_installing_meanwhile_does_not_look_for_other_functions(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    theirs = FunctionType(imported_early.__code__, vars(sys.modules[imported_early.__module__]))
    theirs.__defaults__ = imported_early.__defaults__
    theirs.__kwdefaults__ = imported_early.__kwdefaults__
    with start_blocking_portal("asyncio_uring") as portal:
        with monkeypatch.context() as patch:
            patch.setattr(anyio, "open_file", theirs)
            with install(strict=True):
                assert is_ours(anyio.run(kind))
        assert is_ours(portal.call(kind))
        assert not is_ours(anyio.run(kind))


FORKS = """
    import os, threading
    import anyio, anyio_uring
    from anyio_uring import _install

    locked, free, forked = threading.Event(), threading.Event(), threading.Event()

    def hold():
        with _install._lock:
            locked.set()
            assert free.wait(30)

    holder = threading.Thread(target=hold)
    holder.start()
    assert locked.wait(30)
    os.register_at_fork(before=free.set)  # called before those of the package
    pid = os.fork()
    if pid == 0:
        anyio.run(anyio.sleep, 0, backend="asyncio_uring")
        os._exit(7)
    holder.join()
    print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    anyio.run(anyio.sleep, 0, backend="asyncio_uring")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_child_of_a_fork_can_begin_a_run() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", textwrap.dedent(FORKS)],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.stdout == "7\n", done.stderr


def test_patch_of_somebody_else_on_top_is_left_alone() -> None:
    async def other(path: Any) -> str:
        return "patched"

    function: Any = vars(anyio.Path)["lstat"]
    original = function.__code__
    message = r"somebody else has patched anyio\.Path\.lstat since"
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with start_blocking_portal("asyncio_uring") as portal:
            installation = install()
            function.__code__ = other.__code__
            with pytest.warns(RuntimeWarning, match=message) as warned:
                installation.uninstall()
            assert warned[0].filename == __file__
            assert portal.call(anyio.Path("/").lstat) == "patched"
            assert _scope.is_scoped in imported_early.__code__.co_consts
            function.__code__ = original
    assert changed() == set()


# -- options --------------------------------------------------------------------------------------


@each_library
@pytest.mark.parametrize("wrong", [{"inflight_max": 3}, "uring", Settings])
def test_option_of_a_wrong_type(library: str, wrong: Any) -> None:
    message = r"the backend option 'uring' must be anyio_uring.Settings, not \w+"
    with pytest.raises(TypeError, match=message):
        anyio.run(kind, backend=f"{library}_uring", backend_options={"uring": wrong})


@each_run
def test_settings_are_those_of_one_run(host: str) -> None:
    async def inflight_max() -> int:
        await kind()
        return _runtime.current_runtime().settings.inflight_max

    library, options = RUNS[host]
    with (
        start_blocking_portal(
            f"{library}_uring", {**options, "uring": Settings(inflight_max=7)}
        ) as seven,
        start_blocking_portal(f"{library}_uring", {"uring": Settings(inflight_max=8)}) as eight,
        start_blocking_portal(f"{library}_uring", {"uring": None}) as default,
        install(),
    ):
        assert [portal.call(inflight_max) for portal in (seven, eight, default)] == [7, 8, 1024]
        assert anyio.run(inflight_max) == 1024


def test_other_options_are_passed_on() -> None:
    class Loop(asyncio.SelectorEventLoop):
        pass

    async def loop() -> Any:
        return asyncio.get_running_loop()

    options = {"debug": True, "loop_factory": Loop, "uring": Settings()}
    before = dict(options)
    made = anyio.run(loop, backend="asyncio_uring", backend_options=options)
    assert type(made) is Loop
    assert made.get_debug()
    assert options == before
    if "uvloop" in RUNS:
        assert type(run("uvloop", loop)).__module__.startswith("uvloop")

    async def time() -> float:
        return trio.current_time()

    clock = trio.testing.MockClock()
    assert run("trio", time, clock=clock) == clock.current_time()


def test_option_that_trio_does_not_know() -> None:
    with pytest.raises(TypeError, match="nonsense"):
        run("trio", kind, nonsense=1)


# -- what others see ------------------------------------------------------------------------------


def report() -> list[Any]:
    try:
        library: str | None = sniffio.current_async_library()
    except sniffio.AsyncLibraryNotFoundError:
        library = None
    return [library, sniffio.current_async_library_cvar.get()]


async def reports() -> list[Any]:
    """What libraries are told, in every place that a run has."""

    async def asked() -> list[Any]:
        return [
            *report(),
            anyio.lowlevel.current_token().backend_class,
            anyio.get_cancelled_exc_class(),
        ]

    found = [await asked(), anyio.get_current_task().name]
    found.append(await anyio.to_thread.run_sync(report))
    found.append(await anyio.to_thread.run_sync(anyio.from_thread.run, asked))
    found.append(await anyio.to_thread.run_sync(anyio.from_thread.run_sync, report))

    def nested() -> Any:
        return anyio.from_thread.run(anyio.to_thread.run_sync, report)

    found.append(await anyio.to_thread.run_sync(nested))
    if report()[0] == "asyncio":
        called: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        asyncio.get_running_loop().call_soon(lambda: called.set_result(report()))
        found.append(await called)
    async with anyio.create_task_group() as group:

        async def child() -> None:
            found.append(await asked())

        group.start_soon(child)
    async with BlockingPortal() as portal:
        found.append(await anyio.to_thread.run_sync(portal.call, asked))
    return found


@each_run
@pytest.mark.parametrize("wrapped", [False, True])
def test_run_looks_as_that_of_the_plain_backend(host: str, wrapped: bool) -> None:
    library, options = RUNS[host]
    main = functools.partial(reports) if wrapped else reports
    plain = anyio.run(main, backend=library, backend_options=options)
    mine = run(host, main)
    assert mine[0][0] == library
    if wrapped:  # AnyIO names such a task after a function of its own
        assert mine[1] == f"{__name__}.reports"
        plain[1] = mine[1]
    assert mine == plain
    with (
        start_blocking_portal(library, options) as first,
        start_blocking_portal(f"{library}_uring", options) as second,
    ):
        assert first.call(main) == second.call(main)


@each_library
def test_name_is_given_back_at_the_end(library: str) -> None:
    class_: Any = sys.modules[f"anyio._backends._{library}_uring"].backend_class
    variable = sniffio.current_async_library_cvar
    token = variable.set(f"{library}_uring")
    try:
        assert class_.run(reports, (), {}, {})[0][0] == library
        assert variable.get() == f"{library}_uring"
    finally:
        variable.reset(token)


def test_other_run_in_the_same_thread_is_refused_as_ever() -> None:
    async def main() -> None:
        anyio.run(kind, backend="asyncio_uring")

    with pytest.raises(RuntimeError, match=r"^Already running asyncio in this thread$"):
        anyio.run(main, backend="asyncio_uring")


@each_library
def test_backend_is_anyios_own_but_for_the_beginning(library: str) -> None:
    class_: Any = sys.modules[f"anyio._backends._{library}_uring"].backend_class
    theirs: Any = _private.anyio_backend(library)
    assert issubclass(class_, theirs)
    assert class_ is sys.modules[f"anyio._backends._{library}_uring"].backend_class
    added = {name for name in vars(class_) if not name.startswith("_")}
    assert added == {"run", "create_test_runner"}
    assert class_.__name__ == f"Uring{theirs.__name__}"


# -- the pytest plugin ----------------------------------------------------------------------------

TESTS = """
    import os
    import anyio, pytest, sniffio
    import anyio_uring

    async def kind():
        async with await anyio.open_file(os.devnull, "rb") as file:
            return type(file)

    @pytest.fixture(
        scope="module",
        params=[
            "asyncio_uring",
            ("asyncio_uring", {"debug": True, "uring": anyio_uring.Settings(driver="thread")}),
            "trio_uring",
            ("trio_uring", {"uring": anyio_uring.Settings(driver="thread")}),
            "asyncio",
            "trio",
        ],
    )
    def anyio_backend(request):
        return request.param

    @pytest.fixture(scope="module")
    async def shared(anyio_backend):
        yield await kind()
        assert await kind() is await kind()

    @pytest.fixture
    async def value():
        return await kind()

    @pytest.mark.anyio
    async def test_files(shared, value, anyio_backend_name, anyio_backend_options, tmp_path):
        ours = anyio_backend_name.endswith("_uring")
        found = {shared, value, await kind()}
        assert [issubclass(one, anyio_uring.AsyncFile) for one in found] == [ours]
        assert sniffio.current_async_library() == anyio_backend_name.removesuffix("_uring")
        if "uring" in anyio_backend_options:
            assert anyio_uring.statistics().driver == "thread"

    def test_between(shared, anyio_backend_name):
        name = anyio_backend_name.removesuffix("_uring")
        assert sniffio.current_async_library_cvar.get() == name

    @pytest.mark.anyio
    async def test_that_fails(value):
        raise ZeroDivisionError

    def test_last():
        assert anyio.open_file.__code__.co_filename == anyio.wrap_file.__code__.co_filename
"""


def test_pytest_plugin_of_anyio(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(textwrap.dedent(TESTS))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-W", "error"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=100,
    )
    summary = done.stdout.splitlines()[-1]
    assert "6 failed, 13 passed" in summary, done.stdout + done.stderr
    assert done.stdout.count("ZeroDivisionError\n") >= 6


# -- when something is not as expected ------------------------------------------------------------


def test_import_offers_the_backends_and_makes_nothing() -> None:
    script = """
        import sys, anyio, anyio_uring
        made = ["asyncio", "trio", "anyio_uring._backends", "anyio_uring._install"]
        made += ["anyio._backends", "anyio._backends._asyncio", "anyio._backends._trio"]
        assert not [name for name in made if name in sys.modules]
        for name in "asyncio_uring", "trio_uring":
            module = sys.modules[f"anyio._backends._{name}"]
            assert "backend_class" not in vars(module)
            assert not hasattr(module, "__file__")
        anyio.run(anyio.sleep, 0, backend="asyncio_uring")
        assert "trio" not in sys.modules
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, timeout=60)


def test_trio_that_is_missing() -> None:
    script = """
        import sys, anyio, anyio_uring
        sys.modules["trio"] = None
        anyio.run(anyio.sleep, 0, backend="asyncio_uring")
        for name in "trio", "trio_uring":
            try:
                anyio.run(anyio.sleep, 0, backend=name)
            except LookupError as error:
                print(str(error).replace(repr(name), "NAME"))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    message = "Backend NAME is not available. Install it with: pip install anyio[trio]\n"
    assert done.stdout == message * 2


@pytest.fixture
def unmade(monkeypatch: pytest.MonkeyPatch) -> None:
    """AnyIO has not asked for the backends yet."""
    from anyio._core import _eventloop

    kept = {name: of for name, of in _eventloop.loaded_backends.items() if "uring" not in name}
    monkeypatch.setattr(_eventloop, "loaded_backends", kept)
    for library in "asyncio", "trio":
        module = sys.modules[f"anyio._backends._{library}_uring"]
        monkeypatch.delattr(module, "backend_class", raising=False)


def no_class(library: str) -> Any:
    class Backend:
        @classmethod
        def run(cls, func: Any, args: Any, kwargs: Any, options: Any) -> Any:
            raise AssertionError

        @classmethod
        def create_test_runner(cls, options: Any) -> Any:
            raise AssertionError

    return Backend


def other_parameters(library: str) -> Any:
    class Backend(AsyncBackend):
        @classmethod
        def run(cls, func: Any, options: Any) -> Any:  # type: ignore[override]
            raise AssertionError

    return Backend


@pytest.mark.usefixtures("unmade")
@pytest.mark.parametrize("other", [no_class, other_parameters, None])
@each_library
def test_backend_that_is_not_as_expected(
    library: str, other: Callable[[str], Any] | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules[_private.anyio_backend(library).__module__]
    version = _targets.version_of("anyio")
    with monkeypatch.context() as patch:
        if other is None:
            patch.delattr(module, "backend_class")
        else:
            patch.setattr(module, "backend_class", other(library))
        with pytest.raises(RuntimeError, match=f"^AnyIO {version} is not known") as caught:
            anyio.run(kind, backend=f"{library}_uring")
        assert library in str(caught.value)
    assert is_ours(anyio.run(kind, backend=f"{library}_uring"))


@pytest.mark.usefixtures("unmade")
@each_library
def test_name_that_cannot_be_hidden_is_an_error(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from anyio_uring import _backends

    class_ = _backends.backend_class(library)

    class Token:
        backend_class = class_

    monkeypatch.setattr(_backends, "current_token", Token)
    version = _targets.version_of("anyio")
    with pytest.raises(RuntimeError, match=f"^AnyIO {version} reports '{library}_uring' where"):
        class_.run(kind, (), {}, {})


@each_library
def test_target_that_is_not_as_expected_is_an_error(
    library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_install, "_swapped", {})
    monkeypatch.setattr(anyio.Path, "stat", len)
    with pytest.raises(InstallError, match=r"^anyio 4.*: anyio\.Path\.stat is no Python function"):
        anyio.run(kind, backend=f"{library}_uring")
    monkeypatch.undo()


def test_target_that_is_not_as_expected_leaves_the_other_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_install, "_swapped", {})
    monkeypatch.setattr(trio.Path, "stat", len)
    with pytest.raises(InstallError, match=r"^trio "):
        anyio.run(kind, backend="trio_uring")
    monkeypatch.undo()
