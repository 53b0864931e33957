"""AnyIO's and Trio's own tests of files and paths, three times: with our names in place of theirs,
and as they are, with `anyio_uring.install` in force and with the backends ``asyncio_uring`` and
``trio_uring``.

    python -m tests.upstream.prepare SDIST FOLDER

writes them to FOLDER/tests: AnyIO's from its source distribution, Trio's from the installed
package, which has them.  FOLDER/anyio gets AnyIO's tests of worker threads, as they are, and what
these need.  They are fetched for a run and never kept here.
"""

from __future__ import annotations

import ast
import sys
import tarfile
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

import anyio_uring
import anyio_uring.trio

OF_ANYIO = {
    "tests/test_fileio.py": "test_anyio_fileio.py",
    "tests/streams/test_file.py": "test_anyio_streams.py",
    "tests/test_tempfile.py": "test_anyio_tempfile.py",
}
OF_TRIO = {"test_file_io.py": "test_trio_file_io.py", "test_path.py": "test_trio_path.py"}
AS_THEY_ARE = ["tests/__init__.py", "tests/conftest.py", "tests/test_to_thread.py"]
# The matrix of our tests, and each test in every cell of it
CONFTEST = """\
import pytest
from tests.conftest import *

@pytest.fixture(autouse=True)
def in_every_tier(tiers):
    pass
"""
HEAD = "import pytest\npytestmark = [{}]\n"
OF_HOSTS = "pytest.mark.hosts('trio')"
OF_TIERS = "pytest.mark.tiers('auto', 'thread')"
INSTALLED = """\
@pytest.fixture(autouse=True)
def installed():
    import anyio_uring
    with anyio_uring.install(trio=True, to_thread=True, strict=True):
        yield
"""
BY_NAME = """\
@pytest.fixture
def anyio_backend(request):
    import anyio_uring
    name, options = request.param
    return f"{name}_uring", options

async def test_files_are_ours():
    import anyio, anyio_uring
    async with await anyio.open_file(__file__, "rb") as file:
        assert isinstance(file, anyio_uring.AsyncFile)
"""


class OurNames(ast.NodeTransformer):
    """Imports from AnyIO of what we have, and what is asked of `trio`, lead to us."""

    def __init__(self) -> None:
        self.replaced: set[str] = set()

    def visit_ImportFrom(self, node: ast.ImportFrom) -> list[ast.ImportFrom]:
        if node.module not in ("anyio", "anyio.streams.file"):
            return [node]
        ours = [alias for alias in node.names if alias.name in anyio_uring.__all__]
        theirs = [alias for alias in node.names if alias.name not in anyio_uring.__all__]
        self.replaced.update(alias.name for alias in ours)
        parts = [(node.module, theirs), ("anyio_uring", ours)]
        return [ast.ImportFrom(module, names, 0) for module, names in parts if names]

    def visit_Attribute(self, node: ast.Attribute) -> ast.expr:
        self.generic_visit(node)
        is_trio = isinstance(node.value, ast.Name) and node.value.id == "trio"
        if not is_trio or node.attr not in anyio_uring.trio.__all__:
            return node
        self.replaced.add(node.attr)
        return ast.parse(f"__import__('anyio_uring.trio').trio.{node.attr}", mode="eval").body


def with_our_names(source: str) -> tuple[str, set[str]]:
    """The same tests, and which names they now have from us."""
    names = OurNames()
    tree = ast.fix_missing_locations(names.visit(ast.parse(source)))
    return ast.unparse(tree), names.replaced


def write(source: str, path: Path, *marks: str) -> None:
    text, replaced = with_our_names(source)
    if not replaced:
        sys.exit(f"{path.name}: none of our names is in these tests")
    as_it_is = ast.unparse(ast.parse(source))
    head, fewer = HEAD.format(", ".join(marks)), HEAD.format(", ".join([*marks, OF_TIERS]))
    for written, name, first in (
        (text, path.name, head),
        (as_it_is, f"{path.stem}_installed.py", head + INSTALLED),
        (as_it_is, f"{path.stem}_by_name.py", fewer + BY_NAME),
    ):
        start, rest = (
            written.split("\n", 1) if written.startswith("from __future__") else ("", written)
        )
        path.with_name(name).write_text(f"{start}\n{first}{rest}\n")
    print(f"{path.name}: {', '.join(sorted(replaced))}")


def main(sdist: Path, whole: Path) -> None:
    folder = whole / "tests"
    folder.mkdir(parents=True, exist_ok=True)
    (whole / "anyio" / "tests").mkdir(parents=True)
    found = set()
    folder.joinpath("conftest.py").write_text(CONFTEST)
    with tarfile.open(sdist) as archive:
        for member in archive.getmembers():
            inside = str(PurePosixPath(*PurePosixPath(member.name).parts[1:]))
            if inside not in (*OF_ANYIO, *AS_THEY_ARE):
                continue
            file = archive.extractfile(member)
            assert file is not None
            found.add(inside)
            if inside in OF_ANYIO:
                write(file.read().decode(), folder / OF_ANYIO[inside])
            else:
                (whole / "anyio" / inside).write_bytes(file.read())
    spec = find_spec("trio._tests")
    assert spec is not None
    assert spec.submodule_search_locations
    for name, ours in OF_TRIO.items():
        source = Path(spec.submodule_search_locations[0], name).read_text()
        write(source, folder / ours, OF_HOSTS)
    missing = {*OF_ANYIO, *AS_THEY_ARE} - found
    if missing:
        sys.exit(f"not found: {', '.join(sorted(missing))}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
