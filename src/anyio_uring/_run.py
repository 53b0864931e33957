"""``python -m anyio_uring run``: a program, as Python runs it, with `install` in force."""

from __future__ import annotations

import builtins
import io
import os
import runpy
import sys
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from types import CodeType, ModuleType
from typing import Any
from zipfile import is_zipfile

from ._install import VARIABLE, install, targets_of

FAILED, USAGE = 1, 2
HELP = f"""\
usage: python -m anyio_uring run (SCRIPT | -m MODULE | -) [ARGUMENT ...]

Run a program with AnyIO's files served by anyio_uring, without changing a line of it.

  SCRIPT     a file, directory or zip file, as 'python SCRIPT' runs it
  -m MODULE  a module or package, as 'python -m MODULE' runs it
  -          standard input

What is served: AnyIO's files, or what {VARIABLE} says: 1 for AnyIO's, or a list
of 'anyio', 'trio' and 'to_thread'; 0 for nothing.  A process that the program starts
has to install it by itself.

examples:
  python -m anyio_uring run server.py --port 8000
  python -m anyio_uring run -m uvicorn app:app
"""


def main(words: list[str]) -> int:
    """Run what the words say; what it raises and how it exits is its own affair."""
    if words[:1] in (["-h"], ["--help"]):
        print(HELP, end="")
        return 0
    is_module = bool(words) and words[0].startswith("-m")
    if is_module:
        attached = words[0][2:]
        words = [attached, *words[1:]] if attached else words[1:]
    elif words[:1] == ["--"]:
        words = words[1:]
    elif words and words[0].startswith("-") and words[0] != "-":
        return _complain(f"unknown option {words[0]}; its own options come behind the program")
    if not words:
        return _complain("say what: a script, or -m and a module")
    try:
        targets = targets_of(os.environ.get(VARIABLE, "1"))
    except ValueError as error:
        return _complain(str(error))
    sys.argv = list(words)
    if not is_module:
        return _run_script(words[0], targets)
    try:
        found = find_spec(words[0])
    except (ImportError, ValueError):
        found = None
    if found is None:
        return _complain(f"No module named {words[0]}", FAILED)
    install(**targets)
    runpy.run_module(words[0], run_name="__main__", alter_sys=True)
    return 0


def _complain(text: str, code: int = USAGE) -> int:
    print(f"run: {text}", file=sys.stderr)
    return code


def _run_script(name: str, targets: dict[str, bool]) -> int:
    # Nothing is uninstalled: threads and functions called at the exit belong to the program, too
    path = os.path.abspath(name)
    spec = None
    try:
        if name == "-":
            code, file, folder = _compiled(sys.stdin.read(), "<stdin>"), None, ""
        elif os.path.isfile(path) and not is_zipfile(path):
            with io.open_code(path) as source:
                code, file = _compiled(source.read(), path), path
            folder = os.path.dirname(os.path.realpath(path))
        else:
            os.stat(path)
            spec = PathFinder.find_spec("__main__", [path])
            loader: Any = spec and spec.loader
            if loader is None:
                return _complain(f"can't find '__main__' module in {name!r}", FAILED)
            code, file, folder = loader.get_code("__main__"), None, path
    except OSError as error:
        return _complain(f"can't open file {name!r}: {error.strerror}")
    if not sys.flags.safe_path:
        sys.path[0] = folder
    elif spec is not None:
        sys.path.insert(0, folder)
    install(**targets)
    module = ModuleType("__main__") if spec is None else module_from_spec(spec)
    if file is not None:
        module.__file__ = file
    module.__dict__["__builtins__"] = builtins
    sys.modules["__main__"] = module
    exec(code, module.__dict__)
    return 0


def _compiled(source: str | bytes, name: str) -> CodeType:
    code: CodeType = compile(source, name, "exec", dont_inherit=True)
    return code
