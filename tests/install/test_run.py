"""`python -m anyio_uring run` and `pytest --anyio-uring`: programs that do not know of us."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from anyio_uring._install import VARIABLE, targets_of

RUN = [sys.executable, "-m", "anyio_uring", "run"]
PROGRAM = """
    import sys, os
    import anyio

    async def main():
        async with await anyio.open_file(os.devnull) as file:
            return type(file).__module__.partition(".")[0]

    if __name__ == "__main__":
        print(anyio.run(main), sys.argv, sys.path[0], *sys.argv[1:])
        sys.exit(7)
"""
TRIO = """
    import trio, os

    async def main():
        async with await trio.open_file(os.devnull) as file:
            return type(file).__module__.partition(".")[0]

    print(trio.run(main))
"""


def run(
    *arguments: str | Path, cwd: Path, install: str | None = None
) -> subprocess.CompletedProcess[str]:
    env = {key: value for key, value in os.environ.items() if key != VARIABLE}
    if install is not None:
        env[VARIABLE] = install
    command = [*RUN, *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=60)


@pytest.fixture
def script(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    path = folder / "program.py"
    path.write_text(textwrap.dedent(PROGRAM))
    return path


def test_script_with_its_arguments(script: Path, tmp_path: Path) -> None:
    done = run("folder/program.py", "-m", "--help", "x", cwd=tmp_path)
    assert done.stderr == ""
    argv = ["folder/program.py", "-m", "--help", "x"]
    assert done.stdout == f"anyio_uring {argv} {script.parent} -m --help x\n"
    assert done.returncode == 7


def test_module_with_its_arguments(script: Path, tmp_path: Path) -> None:
    done = run("-m", "program", "--port", "1", cwd=script.parent)
    assert done.stderr == ""
    argv = [str(script), "--port", "1"]
    assert done.stdout == f"anyio_uring {argv} {script.parent} --port 1\n"
    assert done.returncode == 7


@pytest.mark.parametrize(
    ("install", "of_anyio", "of_trio"),
    [
        (None, "anyio_uring", "trio"),
        ("1", "anyio_uring", "trio"),
        ("0", "anyio", "trio"),
        ("trio", "anyio", "anyio_uring"),
        ("anyio, trio", "anyio_uring", "anyio_uring"),
    ],
)
def test_environment_says_what_is_served(
    script: Path, tmp_path: Path, install: str | None, of_anyio: str, of_trio: str
) -> None:
    (tmp_path / "of_trio.py").write_text(textwrap.dedent(TRIO))
    assert run(script, cwd=tmp_path, install=install).stdout.split()[0] == of_anyio
    assert run("of_trio.py", cwd=tmp_path, install=install).stdout == f"{of_trio}\n"


@pytest.mark.parametrize(
    ("arguments", "install", "message"),
    [
        ([], None, "run: say what: a script, or -m and a module\n"),
        (["-m"], None, "run: say what: a script, or -m and a module\n"),
        (["--"], None, "run: say what: a script, or -m and a module\n"),
        (["--trio", "x.py"], None, "run: unknown option --trio; its own options come behind"),
        (["missing.py"], None, "run: can't open file 'missing.py': No such file or directory\n"),
        (
            ["x.py"],
            "curio",
            "run: ANYIO_URING_INSTALL and --anyio-uring-targets are 1, 0 or a list",
        ),
    ],
)
def test_wrong_usage(
    tmp_path: Path, arguments: list[str], install: str | None, message: str
) -> None:
    done = run(*arguments, cwd=tmp_path, install=install)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(message)


def test_module_that_is_missing(tmp_path: Path) -> None:
    for name in "missing", "missing.too":
        done = run("-m", name, cwd=tmp_path)
        assert (done.returncode, done.stderr) == (1, f"run: No module named {name}\n")


@pytest.mark.parametrize(
    ("words", "argv"),
    [
        (["-mprogram", "a", "--", "b"], ["a", "--", "b"]),
        (["-m", "program", "--", "b"], ["--", "b"]),
        (["--", "program.py", "bench"], ["bench"]),
        (["program.py", "--", "-m", "x"], ["--", "-m", "x"]),
        (["FOLDER", "x"], ["x"]),
        (["-", "x"], ["x"]),
    ],
)
def test_words_are_those_that_python_gives(script: Path, words: list[str], argv: list[str]) -> None:
    (script.parent / "__main__.py").write_text(script.read_text())
    words = [str(script.parent) if word == "FOLDER" else word for word in words]
    ours, pythons = (
        subprocess.run(
            command, cwd=script.parent, input=script.read_text(), capture_output=True, text=True
        )
        for command in ([*RUN, *words], [sys.executable, *words])
    )
    assert ours.stdout.startswith("anyio_uring ")
    assert ours.stdout.replace("anyio_uring", "anyio") == pythons.stdout
    assert ours.stdout.endswith(f" {' '.join(argv)}\n")
    assert ours.returncode == pythons.returncode == 7


ABOUT = """
    import atexit, multiprocessing, sys, threading, sibling
    from anyio import open_file

    def late():
        print("late", "anyio_uring" in open_file.__code__.co_filename)

    def square(number):
        return number**2

    if __name__ == "__main__":
        print(__file__, __name__, __spec__, sys.path[0])
        atexit.register(late)
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            print(pool.map(square, [3]))
        threading.Thread(target=lambda: threading.main_thread().join() or late()).start()
"""


def test_program_finds_itself_as_with_python(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (real / "about.py").write_text(textwrap.dedent(ABOUT))
    (real / "sibling.py").touch()
    (tmp_path / "link.py").symlink_to("real/about.py")
    ours, pythons = (
        subprocess.run([*command, "link.py"], cwd=tmp_path, capture_output=True, text=True)
        for command in (RUN, [sys.executable])
    )
    assert ours.stderr == pythons.stderr == ""
    assert ours.stdout.count("late True\n") == 2
    assert ours.stdout.replace("late True", "late False") == pythons.stdout


def test_help() -> None:
    done = subprocess.run([*RUN, "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: python -m anyio_uring run (SCRIPT | -m MODULE | -)")


def test_error_of_the_program_is_its_own(tmp_path: Path) -> None:
    (tmp_path / "fails.py").write_text("raise LookupError('mine')\n")
    done = run("fails.py", cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.endswith("LookupError: mine\n")


def test_texts() -> None:
    nothing = {"anyio": False, "trio": False, "to_thread": False}
    assert targets_of("1") == {**nothing, "anyio": True}
    assert targets_of("anyio, to_thread") == {**nothing, "anyio": True, "to_thread": True}
    assert targets_of("") == targets_of("0") == nothing
    with pytest.raises(ValueError, match="not 'anyio,curio'"):
        targets_of("anyio,curio")


# -- the pytest plugin ----------------------------------------------------------------------------

TESTS = """
    import os
    import anyio
    from anyio import open_file

    async def kind(function):
        async with await function(os.devnull) as file:
            return type(file).__module__.partition(".")[0]

    def test_served():
        assert anyio.run(kind, open_file) == "anyio_uring"
"""


@pytest.mark.parametrize(
    ("option", "install", "code"),
    [
        ([], None, 1),
        (["--anyio-uring"], None, 0),
        (["--anyio-uring", "test_it.py"], None, 0),
        (["--anyio-uring-targets=anyio,trio"], None, 0),
        (["--anyio-uring-targets", "trio"], None, 1),
        (["--anyio-uring-targets=0"], "1", 1),
        ([], "1", 0),
        (["--anyio-uring-targets=curio"], None, 4),
    ],
)
def test_plugin(tmp_path: Path, option: list[str], install: str | None, code: int) -> None:
    (tmp_path / "test_it.py").write_text(textwrap.dedent(TESTS))
    env = {key: value for key, value in os.environ.items() if key != VARIABLE}
    if install is not None:
        env[VARIABLE] = install
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *option],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == code, done.stdout + done.stderr
    header = "anyio_uring: serves "
    assert (header in done.stdout) == (code == 0 or "trio" in option)
