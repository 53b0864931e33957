"""Imports point downwards, files stay short, and unfinished work is not left in them.

The table below is the one place that says which module belongs to which layer and who may import
the event loops; docs/explanation/layers.md shows it to readers and is compared with it.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

LAYERS = {
    0: "_arguments _modes _errors _settings _mounts _private _coding _swap _scope",
    1: "_ops _host _pool _hop _handle _line _probe _buffer _transfers _many _entries _direct",
    2: "_gate _driver_uring _driver_thread _path_ops _settle _workers _pieces _ranges",
    3: "_host_asyncio _host_trio",
    4: "_runtime _info",
    5: "_file_steps _file _raw _buffer_steps _buffered _behind _text_steps _text",
    6: "_open _streams _temporary _spooled _whole _listing _walk _path_jobs _path _batch _staged"
    " _atomic _chunks _copy _descent _remove _trees _writes _served_files _served_paths _served",
    7: "__init__ __main__ _doctor _bench _bench_cases _bench_material _bench_report testing"
    " trio _trio_path _targets _install _backends _run _pytest",
}
# The compiled core lies under all of them; the file layer and what is above it never see it.
CORE = "_uring"
CORE_IMPORTERS_LAYER_MAX = 4
# Who may import an event loop, and where: anywhere in the module, or inside its functions only.
LOOPS = {
    "asyncio": {
        "_host_asyncio": "anywhere",
        "_host_trio": "functions",
        "_private": "functions",
        "_runtime": "functions",
        "_bench": "anywhere",
        "testing": "anywhere",
    },
    "trio": {
        "_host_trio": "anywhere",
        "_private": "functions",
        "_bench": "functions",
        "_targets": "functions",
        "_install": "functions",
        "trio": "anywhere",
        "_trio_path": "anywhere",
    },
    "uvloop": {"_bench": "functions"},
}
# ext/: each file may use those before it.
CORE_FILES = ["abi", "kernel", "ring", "sqe", "_uring"]

LINES_MAX = 600

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "anyio_uring"
EXT = ROOT / "ext"
LAYER_OF = {module: layer for layer, modules in LAYERS.items() for module in modules.split()}
MODULES = sorted(PACKAGE.glob("*.py"))


class Import(NamedTuple):
    """One thing that a module imports: `_modes` for a module of ours, `asyncio` for another's."""

    ours: bool
    name: str
    line: int
    in_function: bool


def is_type_checking(node: ast.If) -> bool:
    return ast.unparse(node.test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def walk_run_time(node: ast.AST, *, in_function: bool = False) -> Iterator[tuple[ast.AST, bool]]:
    """Yield every node that can run, and whether it is inside a function."""
    yield node, in_function
    if isinstance(node, ast.If) and is_type_checking(node):
        children: Iterator[ast.AST] | list[ast.stmt] = node.orelse
    else:
        children = ast.iter_child_nodes(node)
    inside = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    for child in children:
        yield from walk_run_time(child, in_function=inside)


def names_imported(node: ast.AST) -> Iterator[str]:
    """Yield the absolute dotted names that an import, or an import_module("..."), brings in."""
    match node:
        case ast.Import(names=names):
            yield from (alias.name for alias in names)
        case ast.ImportFrom(module=module, names=names, level=level):
            assert level <= 1, "anyio_uring has no subpackages"
            base = ".".join(part for part in ["anyio_uring" if level else "", module] if part)
            yield from (f"{base}.{alias.name}" for alias in names)
        case ast.Call(func=func, args=[ast.Constant(value=str(name)), *_]):
            if ast.unparse(func).split(".")[-1] in {"import_module", "__import__"}:
                yield f"anyio_uring{name}" if name.startswith(".") else name


def imports_of(source: str) -> Iterator[Import]:
    for node, in_function in walk_run_time(ast.parse(source)):
        for dotted in names_imported(node):
            assert isinstance(node, ast.stmt | ast.expr)
            first, *rest = dotted.split(".")
            if first != "anyio_uring":
                yield Import(False, first, node.lineno, in_function)
            elif rest and (rest[0] in LAYER_OF or re.match(r"_[^_]", rest[0])):
                yield Import(True, rest[0], node.lineno, in_function)
            else:
                yield Import(True, "__init__", node.lineno, in_function)


def violations(module: str, source: str) -> list[str]:
    layer = LAYER_OF[module]
    found = []
    for item in imports_of(source):
        where = f"{module}, line {item.line}:"
        if not item.ours:
            allowed = LOOPS.get(item.name, {module: "anywhere"}).get(module, "never")
            if allowed == "never" or (allowed == "functions" and not item.in_function):
                found.append(f"{where} {item.name} may be imported here: {allowed}")
        elif item.name == CORE:
            if layer > CORE_IMPORTERS_LAYER_MAX:
                found.append(f"{where} layer {layer} may not see {CORE}")
        elif item.name not in LAYER_OF:
            found.append(f"{where} {item.name} is in no layer")
        elif LAYER_OF[item.name] > layer:
            found.append(f"{where} layer {layer} imports {item.name} of {LAYER_OF[item.name]}")
    return found


def core_violations(name: str, source: str) -> list[str]:
    """Check the cimports and headers of one file of ext/."""
    own = CORE_FILES.index(name)
    used = []
    for line in source.splitlines():
        if match := re.match(r"\s*from\s+(\S+)\s+cimport\b", line):
            used.append(match[1])
        elif match := re.match(r"\s*cimport\s+(.+)", line):
            used += [part.split()[0] for part in match[1].split("#")[0].split(",")]
        elif match := re.match(r'\s*(?:cdef extern from|#\s*include)\s+"(\w+)\.h"', line):
            used.append(match[1])
        elif re.match(r"\s*include\s+[\"']", line):
            used.append("include")
    bare = [dotted.removeprefix("anyio_uring.").lstrip(".") for dotted in used]
    return [
        f"{name} uses {other}"
        for other in bare
        if other == "include" or (other in CORE_FILES and CORE_FILES.index(other) > own)
    ]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_module_imports_only_its_own_layer_and_lower_ones(path: Path) -> None:
    assert path.stem in LAYER_OF, f"{path.name} is in no layer: add it to LAYERS"
    assert violations(path.stem, path.read_text()) == []


def test_package_has_modules_and_each_listed_one_exists() -> None:
    assert MODULES
    assert [module for module in LAYER_OF if not (PACKAGE / f"{module}.py").exists()] == []


def test_package_has_no_subpackages() -> None:
    """The check above reads the files of one folder."""
    assert list(PACKAGE.glob("*/**/*.py")) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("_modes", "from ._ops import FileOps"),
        ("_modes", "from anyio_uring._ops import FileOps"),
        ("_modes", "from . import _ops"),
        ("_modes", "import anyio_uring._ops"),
        ("_modes", "def f():\n    from . import _ops"),
        ("_modes", "importlib.import_module('._ops', 'anyio_uring')"),
        ("_modes", "if not TYPE_CHECKING:\n    from . import _ops"),
        ("_modes", "if TYPE_CHECKING:\n    pass\nelse:\n    from . import _ops"),
        ("_open", "from . import open_file"),
        ("_open", "import anyio_uring"),
        ("_open", "from . import _unlisted"),
        ("_file", "from . import _uring"),
        ("_file", "import asyncio"),
        ("_driver_uring", "import trio.lowlevel"),
        ("_private", "from trio.lowlevel import current_task"),
        ("_runtime", "import asyncio"),
    ],
)
def test_upward_import_is_found(module: str, source: str) -> None:
    assert len(violations(module, source)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("_ops", "from . import _modes, _handle"),
        ("_file", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import trio"),
        ("_probe", "from anyio_uring._uring import Ring"),
        ("_private", "def f():\n    import trio, asyncio"),
        ("_host_trio", "import trio"),
        ("__init__", "from ._open import open_file"),
    ],
)
def test_downward_import_passes(module: str, source: str) -> None:
    assert violations(module, source) == []


@pytest.mark.parametrize(
    "path",
    sorted(path for path in EXT.glob("*") if path.suffix in {".h", ".pxd", ".pyx"}),
    ids=lambda path: path.name,
)
def test_core_file_uses_only_those_below_it(path: Path) -> None:
    assert path.stem in CORE_FILES, f"{path.name} has no place: add it to CORE_FILES"
    assert core_violations(path.stem, path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        "from sqe cimport prep_read",
        "cimport abi, sqe",
        "from anyio_uring.sqe cimport prep_read",
        'cdef extern from "sqe.h":',
        '#include "sqe.h"',
        'include "parts.pxi"',
    ],
)
def test_upward_use_in_core_is_found(source: str) -> None:
    assert len(core_violations("kernel", source)) == 1


def test_documented_table_is_this_one() -> None:
    """Rows of the page look like `| 3 | _host_asyncio _host_trio | ... |`, code marks ignored."""
    text = (ROOT / "docs" / "explanation" / "layers.md").read_text()
    rows = re.findall(r"^\| *(\d) *\|([^|]*)\|", text, flags=re.MULTILINE)
    documented = {int(layer): set(re.findall(r"\w+", modules)) for layer, modules in rows}
    assert documented == {layer: set(modules.split()) for layer, modules in LAYERS.items()}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_module_is_short_enough_to_read(path: Path) -> None:
    assert len(path.read_text().splitlines()) < LINES_MAX


def written_files() -> Iterator[Path]:
    folders = [".ci", "benchmarks", "docs", "examples", "ext", "src", "tests"]
    kinds = {".h", ".in", ".md", ".pxd", ".py", ".pyi", ".pyx", ".toml", ""}
    yield from (path for path in ROOT.iterdir() if path.is_file() and path.suffix in kinds)
    for folder in folders:
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix in kinds and "_build" not in path.parts:
                yield path


def test_no_unfinished_work_is_left_in_the_tree() -> None:
    """What is still to do belongs in the issue tracker."""
    banned = re.compile(r"\b(?:TO" + r"DO|FIX" + r"ME|X" + r"XX)\b")
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in sorted(written_files())
        for number, line in enumerate(path.read_text("utf-8", "replace").splitlines(), start=1)
        if banned.search(line)
    ]
    assert found == []
