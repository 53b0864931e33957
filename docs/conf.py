# The pages must build without a network, so other projects' names are not looked up.

import tomllib
from collections.abc import Iterable
from itertools import groupby
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from anyio_uring._served import names as served_names
from anyio_uring._targets import TARGETS, swaps_of

PYPROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())

project = "anyio_uring"
author = "The anyio_uring authors"
copyright = author
release = version = PYPROJECT["project"]["version"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.doctest"]
exclude_patterns = ["_build"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = f"anyio_uring {release}"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
nitpick_ignore_regex = [
    (r"py:.*", r"(anyio|trio)\..*"),
    (r"py:.*", r"(asyncio|collections|contextlib|io|os|pathlib|shutil|types|typing)\..*"),
    # Names that type checkers know and Python does not.
    (
        r"py:.*",
        r"(.*\.)?(StrOrBytesPath|ReadableBuffer|WriteableBuffer|_?Any(Str|_co)?|IO|P|_[A-Z]\w*)",
    ),
    # Bases and annotations whose import was only for type checkers.
    (r"py:.*", r"(AsyncFile\[.*|Callable|CapacityLimiter|Iterable|Literal|Mapping|Path|PathLike)"),
    (r"py:.*", r"(Open(Binary|Text)Mode\w*|Handle|open|AbstractAsyncContextManager)"),
]
# Only blocks marked as tests run; the examples in docstrings are programs of several lines.
doctest_test_doctest_blocks = ""
doctest_global_setup = "import anyio, anyio_uring"


def listed(names: Iterable[tuple[str, Iterable[str]]]) -> nodes.bullet_list:
    """Names by where they are."""
    found = nodes.bullet_list()
    for owner, group in names:
        paragraph = nodes.paragraph("", f"{owner}: ")
        for number, name in enumerate(group):
            paragraph += nodes.Text(", " if number else "")
            paragraph += nodes.literal("", name)
        found += nodes.list_item("", paragraph)
    return found


class Installed(SphinxDirective):
    """The functions that `install` swaps, from the table that it uses."""

    def run(self) -> list[nodes.Node]:
        names = [swap.name.rpartition(".") for target in TARGETS for swap in swaps_of(target)]
        groups = groupby(names, lambda name: name[0])
        return [listed((owner, [name for *_, name in group]) for owner, group in groups)]


class Served(SphinxDirective):
    """The functions that need no thread in `run_sync`, from the table that it uses."""

    def run(self) -> list[nodes.Node]:
        return [listed(served_names().items())]


def setup(app: Sphinx) -> None:
    app.add_directive("installed", Installed)
    app.add_directive("served", Served)
