"""The checks, one session each; `.ci/run` runs them all.

Plain `nox -s tests` uses the Python that runs nox, `nox -s tests-3.12` another one.
"""

import hashlib
import os
import shutil
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import nox
from nox.command import CommandFailed

nox.needs_version = ">=2025.2.9"
nox.options.default_venv_backend = "virtualenv"
nox.options.reuse_venv = "yes"
nox.options.sessions = [
    "tests",
    "pure",
    "clients",
    "upstream",
    "starlette",
    "compat",
    "lint",
    "types",
    "docs",
    "build",
]

OTHER_PYTHONS = ["3.11", "3.12", "3.13", "3.14"]
PYPROJECT = nox.project.load_toml("pyproject.toml")
EXTENSION_EXPECTED = sys.platform == "linux"
# What `compat` installs unless it is told: the oldest AnyIO that is supported.
OLDEST = ["anyio==4.14.0"]
# Tests of what depends on AnyIO's and Trio's insides, and a little of everything else; not those
# that compare files with AnyIO's own, which have behaved otherwise in details.
COMPAT_TESTS = [
    "tests/unit/test_private.py",
    "tests/unit/test_import.py",
    "tests/install",
    "tests/io/test_open.py",
    "tests/io/test_raw.py",
    "tests/temporary/test_cancelled.py",
    "tests/temporary/test_temporary.py",
]


def install_groups(session: nox.Session, *groups: str) -> None:
    """Install dependency groups and what the package itself depends on."""
    needed = nox.project.dependency_groups(PYPROJECT, *groups)
    session.install(*PYPROJECT["project"]["dependencies"], *needed)


def forget_removed_modules() -> None:
    """Clear setuptools' staging folders, or modules since deleted from src/ get into the wheel.

    The compiled core may stay: it is rebuilt when its sources are newer.
    """
    for staged in Path("build").glob("lib*/anyio_uring/*"):
        if staged.suffix != ".so":
            shutil.rmtree(staged) if staged.is_dir() else staged.unlink()


def install_wheel(session: nox.Session, *, pure: bool = False) -> None:
    """Build this tree as a wheel and install that: what is tested is what users get.

    The session must have installed a group that holds cython and setuptools.
    """
    forget_removed_modules()
    with tempfile.TemporaryDirectory() as folder:
        session.run(
            *("python", "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"),
            *("--wheel-dir", folder, "."),
            env={"ANYIO_URING_NO_EXTENSION": "1" if pure else "0"},
        )
        [wheel] = Path(folder).glob("*.whl")
        has_core = not wheel.name.endswith("-py3-none-any.whl")
        if has_core != (EXTENSION_EXPECTED and not pure):
            session.error(
                f"the build made {wheel.name}: the compiled core is there or missing wrongly"
            )
        # Forced, as pip would keep an installed wheel of the same version, and not by
        # session.install(), which `nox -R` skips: the tests would run on yesterday's wheel.
        session.run(
            *("python", "-m", "pip", "install", "--quiet", "--force-reinstall", "--no-deps"),
            str(wheel),
        )
    session.run("python", "-m", "pip", "check", silent=True)


def run_tests(session: nox.Session) -> None:
    """Run the tests against the installed wheel; arguments after -- go to pytest."""
    install_groups(session, "test")
    install_wheel(session)
    session.run("python", "-m", "pytest", *session.posargs)


nox.session(name="tests")(run_tests)
for version in OTHER_PYTHONS:
    nox.session(name=f"tests-{version}", python=version)(run_tests)


@nox.session
def pure(session: nox.Session) -> None:
    """Run the tests against the wheel without the compiled core."""
    install_groups(session, "test")
    install_wheel(session, pure=True)
    env = {"ANYIO_URING_EXPECT": "thread"}
    session.run("python", "-m", "pytest", *session.posargs, env=env)


@nox.session
def clients(session: nox.Session) -> None:
    """Run frameworks, servers and other programs that read files, as in examples/, on our files."""
    install_groups(session, "test", "clients")
    install_wheel(session)
    session.run("python", "-m", "pytest", "tests/clients", *session.posargs)


def fetch_sdist(session: nox.Session, package: str, folder: Path) -> Path:
    """Fetch the source distribution of the version that is installed."""
    print_version = f"from importlib.metadata import version; print(version({package!r}))"
    version = session.run("python", "-c", print_version, silent=True)
    session.run(
        *("python", "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", package),
        *("--dest", str(folder), f"{package}=={str(version).strip()}"),
    )
    [sdist] = folder.glob(f"{package}-*.tar.gz")
    return sdist


@nox.session
def compat(session: nox.Session) -> None:
    """Run the tests that depend on AnyIO's and Trio's insides with other versions of these.

    `nox -s compat -- anyio==4.14.0 trio==0.32.0`; by default the oldest AnyIO that is supported and
    the newest Trio.
    """
    install_groups(session, "test")
    install_wheel(session)
    # Last, and not by session.install(): `nox -R` shall not run with those of the time before.
    # AnyIO 4.14 imports a name of pytest's that gives a warning, here an error, from 9.2 on.
    versions = ("pytest<9.2", *(session.posargs or OLDEST))
    session.run("python", "-m", "pip", "install", "--quiet", *versions)
    session.run("python", "-m", "pip", "check", silent=True)
    session.run("python", "-m", "pip", "freeze", "--exclude", "anyio-uring")
    session.run("python", "-m", "pytest", *COMPAT_TESTS, env={"ANYIO_URING_MATRIX": "small"})


@nox.session
def upstream(session: nox.Session) -> None:
    """Run AnyIO's and Trio's own tests of files and paths with our names in place of theirs, with
    `install` in force, and with our backends; and AnyIO's of worker threads with `install`.

    AnyIO's come from the source distribution of the version that is installed.
    """
    install_groups(session, "test", "upstream")
    install_wheel(session)
    codes = [0, 5] if session.posargs else [0]  # some may leave nothing to run (5)
    folder = Path(session.create_tmp()).resolve()
    shutil.rmtree(folder)
    sdist = fetch_sdist(session, "anyio", folder)
    session.run("python", "-m", "tests.upstream.prepare", str(sdist), str(folder))
    session.run(
        *("python", "-m", "pytest", "-c", "pyproject.toml", "--rootdir", "."),
        *("-o", "anyio_mode=auto", *session.posargs, str(folder / "tests")),
        success_codes=codes,
    )
    for driver in ("auto", "thread"):  # in AnyIO's own surroundings
        session.run(
            *("python", "-m", "pytest", "-c", "pyproject.toml", "--rootdir", "."),
            *("--import-mode=prepend", "-o", "anyio_mode=auto", "-o", "pythonpath="),
            *(
                "--anyio-uring-targets=anyio,trio,to_thread",
                *session.posargs,
                str(folder / "anyio" / "tests"),
            ),
            env={"ANYIO_URING_DRIVER": driver},
            success_codes=codes,
        )


# What is installed while Starlette's tests run, as --anyio-uring-targets says it: a run for each.
STARLETTE_TARGETS = ["anyio", "anyio,to_thread"]
STARLETTE_TESTS = ["test_responses.py", "test_staticfiles.py", "test_formparsers.py"]
# Root may enter every directory.
STARLETTE_NOT_AS_ROOT = "test_staticfiles_with_invalid_dir_permissions_returns_401"


@nox.session
def starlette(session: nox.Session) -> None:
    """Run Starlette's own tests of what it sends and takes, as they are, with ours installed.

    They come from the source distribution of the version that is installed.
    """
    install_groups(session, "test", "clients")
    session.install("blockbuster", "httpx2", "itsdangerous")
    install_wheel(session)
    folder = Path(session.create_tmp()).resolve()
    shutil.rmtree(folder)
    with tarfile.open(fetch_sdist(session, "starlette", folder)) as archive:
        # Debian's Python 3.11 is older than the filters
        options: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(folder, **options)
    [unpacked] = folder.glob("starlette-*/")
    shutil.rmtree(unpacked / "starlette")  # it is installed
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    left_out = [f"--deselect=tests/test_staticfiles.py::{STARLETTE_NOT_AS_ROOT}"] * is_root
    failed = []
    for targets in STARLETTE_TARGETS:
        # A cache that outlasts the folder, for --last-failed; 5: nothing had failed here
        cache = Path(".pytest_cache", f"starlette-{targets}").resolve()
        try:
            with session.chdir(unpacked):
                session.run(
                    *("python", "-W", "error::RuntimeWarning", "-m", "pytest"),
                    *("-c", "pyproject.toml", "-o", f"cache_dir={cache}"),
                    *(f"--anyio-uring-targets={targets}", *left_out, *session.posargs),
                    *(f"tests/{name}" for name in STARLETTE_TESTS),
                    success_codes=[0, 5] if session.posargs else [0],
                )
        except CommandFailed:
            failed.append(targets)
    if failed:
        session.error(f"failed with these installed: {', '.join(failed)}")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and format of the Python and Cython sources; `-- --fix` mends what it can."""
    install_groups(session, "lint")
    if "--fix" in session.posargs:
        session.run("ruff", "check", "--fix", ".")
        session.run("ruff", "format", ".")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("cython-lint", "ext")


@nox.session
def types(session: nox.Session) -> None:
    """Check the types, and the stub of the compiled core against the core itself."""
    install_groups(session, "build", "types")
    install_wheel(session)
    session.run("mypy")
    if EXTENSION_EXPECTED:
        stubtest = ("python", "-m", "mypy.stubtest", "--mypy-config-file", "pyproject.toml")
        session.run(*stubtest, "anyio_uring._uring")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation, any warning an error, and run its examples."""
    install_groups(session, "build", "docs")
    install_wheel(session)
    for builder in ("html", "doctest"):
        session.run(
            *("python", "-m", "sphinx", "-n", "-W", "--keep-going", "--quiet", "-E"),
            *("-b", builder, "docs", f"docs/_build/{builder}"),
        )


def wheel_contents(wheel: Path) -> dict[str, str]:
    """Map each file of a wheel to a digest; RECORD and compiled ones, which vary, to nothing."""
    with zipfile.ZipFile(wheel) as archive:
        return {
            name: ""
            if name.endswith((".so", "RECORD"))
            else hashlib.sha256(archive.read(name)).hexdigest()
            for name in archive.namelist()
        }


@nox.session
def build(session: nox.Session) -> None:
    """Build the sdist, a wheel from this tree and one from the sdist: both must hold the same."""
    install_groups(session, "build")
    shutil.rmtree("dist", ignore_errors=True)
    # A compiled core may not slip in from an earlier build of this tree.
    shutil.rmtree("build", ignore_errors=True)
    build_command = ("python", "-m", "build", "--no-isolation")
    with tempfile.TemporaryDirectory() as folder:
        session.run(*build_command, "--outdir", "dist", silent=True)  # sdist, then its wheel
        session.run(*build_command, "--wheel", "--outdir", folder, silent=True)  # this tree's
        [sdist] = Path("dist").glob("*.tar.gz")
        [of_sdist] = Path("dist").glob("*.whl")
        [of_tree] = Path(folder).glob("*.whl")
        if of_sdist.name != of_tree.name:
            session.error(f"{of_sdist.name} came from the sdist, {of_tree.name} from the tree")
        expected, found = wheel_contents(of_tree), wheel_contents(of_sdist)
        if expected != found:
            names = [n for n in sorted(expected | found) if expected.get(n) != found.get(n)]
            session.error(f"the wheel from the sdist differs in {', '.join(names)}")
    cores = [name for name in found if name.endswith(".so")]
    if len(cores) != EXTENSION_EXPECTED:
        session.error(f"compiled files in the wheel: {cores}")
    session.log(f"{sdist.name}, {of_sdist.name}: {len(found)} files, the same from tree and sdist")
    session.log(f"sizes: {os.path.getsize(sdist)} and {os.path.getsize(of_sdist)} bytes")
