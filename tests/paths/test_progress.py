"""No callback for progress: refused before anything is done."""

from __future__ import annotations

import pathlib
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from anyio_uring import copy_file, copy_tree, remove_tree

# Nothing has begun by then: no tier serves it
pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("tiers"),
    pytest.mark.hosts("asyncio", "trio"),
    pytest.mark.tiers("auto"),
]


async def tell(*now: int) -> None:
    """As somebody writes it who awaits everything."""


async def generate(*now: int) -> AsyncIterator[int]:
    """As somebody writes it who has left a `yield`."""
    yield 1


class Told:
    async def tell(self, *now: int) -> None:
        pass

    async def __call__(self, *now: int) -> None:
        pass


REFUSED = "progress is called and not awaited: an async function will not do"


@pytest.mark.parametrize("function", [copy_file, copy_tree, remove_tree])
@pytest.mark.parametrize(
    ("progress", "message"),
    [
        (1, "progress must be callable, not 'int'"),
        (tell, REFUSED),
        (Told().tell, REFUSED),
        (partial(tell, 1), REFUSED),
        (Told(), REFUSED),
        (partial(Told(), 1), REFUSED),
        (generate, REFUSED),
    ],
    ids=["number", "function", "method", "partial", "object", "partial-object", "generator"],
)
async def test_nothing_is_done_without_a_callback(
    tmp_path: pathlib.Path,
    function: Callable[..., Awaitable[None]],
    progress: Any,
    message: str,
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    if function is copy_file:
        source.write_bytes(b"content")
    else:
        source.mkdir()
        (source / "file").write_bytes(b"content")
    paths = [source] if function is remove_tree else [source, target]
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(TypeError) as caught:
        await function(*paths, progress=progress)
    assert str(caught.value) == message
    assert sorted(tmp_path.rglob("*")) == before
