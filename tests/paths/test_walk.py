"""Trees from the top down and from the bottom up: `Path.walk`, and what is under it where Python
has it not yet.
"""

from __future__ import annotations

import os
import pathlib
import random
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio.lowlevel import checkpoint
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.support.fuse import FuseMount, cannot_fuse
from tests.support.trees import build

from anyio_uring import Path, _walk, statistics
from anyio_uring._entries import PortableNames, names, sorted_names
from anyio_uring._walk import walk

if TYPE_CHECKING:
    from tests.conftest import Tiers

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.usefixtures("tiers"),
    pytest.mark.hosts("asyncio", "uvloop", "trio"),
]


def steps(
    root: os.PathLike[str] | str,
    top_down: bool = True,
    on_error: Callable[[OSError], object] | None = None,
    follow: bool = False,
) -> AsyncIterator[tuple[str, list[str], list[str]]]:
    return walk(os.fspath(root), top_down, on_error, follow, None)


def theirs(
    root: os.PathLike[str] | str, top_down: bool, follow: bool
) -> list[tuple[str, list[str], list[str]]]:
    """As `pathlib.Path.walk`: by `os.walk`; a symlink that is not followed is a file."""
    found = []
    for top, directories, others in os.walk(root, top_down, followlinks=follow):
        links = [name for name in directories if os.path.islink(os.path.join(top, name))]
        if not follow:
            directories[:] = [name for name in directories if name not in links]
            others += links
        found.append((os.path.normpath(top), sorted(directories), sorted(others)))
    return found


def trust_stamps(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was changed just now counts as changed long ago, so that it is read ahead."""
    release = os.uname().release.split(".") if sys.platform == "linux" else [6, 13]
    if (int(release[0]), int(release[1])) < (6, 13):
        pytest.skip("before Linux 6.13 two changes within a tick have one time stamp")
    monkeypatch.setattr(_walk, "STAMP_NS", 0)


@pytest.fixture
def trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    trust_stamps(monkeypatch)


@pytest.fixture
def parts(tmp_path: pathlib.Path) -> pathlib.Path:
    root = tmp_path / "parts"
    for number in range(40):
        part = root / f"{number:02}"
        part.mkdir(parents=True)
        for name in "xyz":
            (part / name).touch()
    return root


@pytest.mark.parametrize("ahead", [True, False])
@pytest.mark.parametrize("follow", [True, False])
@pytest.mark.parametrize("top_down", [True, False])
async def test_finds_what_os_finds(
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
    top_down: bool,
    follow: bool,
    ahead: bool,
) -> None:
    if ahead:
        trust_stamps(monkeypatch)
    build(tmp_path / "tree")
    os.mkdir(os.fsencode(tmp_path / "tree" / "dir") + b"/\xff")
    (tmp_path / "tree" / "dir" / "nach größe").touch()
    walked = steps(tmp_path / "tree", top_down, None, follow)
    found = [(root, sorted(d), sorted(f)) async for root, d, f in walked]
    assert found == theirs(tmp_path / "tree", top_down, follow)
    assert ("dirlink" in found[0 if top_down else -1][1]) == follow


async def test_of_the_current_directory(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path / "tree")
    monkeypatch.chdir(tmp_path / "tree")
    for top_down in True, False:
        found = [(root, sorted(d), sorted(f)) async for root, d, f in steps(".", top_down)]
        assert found == theirs(".", top_down, False)


def test_portable_names_are_sorted_the_same(tmp_path: pathlib.Path) -> None:
    build(tmp_path / "tree")
    for follow in True, False:
        text = str(tmp_path / "tree")
        entries = os.scandir(text)
        portable = PortableNames(lambda entry: entry.name, entries)
        portable.entries = entries
        found = names(text)
        assert found.sort(follow) == portable.sort(follow)
        found.close()
        portable.close()


async def test_one_hop_for_many_directories(
    parts: pathlib.Path, trusted: None, tiers: Tiers, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_walk, "CHUNK_SECONDS", 600)
    before = statistics().thread
    assert [len(f) async for _, _, f in steps(parts)] == [0] + 40 * [3]
    assert statistics().thread - before == (3 if tiers.now else 41)


async def test_just_changed_directories_are_read_in_their_turn(
    parts: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_walk, "STAMP_NS", 1 << 62)
    before = statistics().thread
    assert len([root async for root, _, _ in steps(parts)]) == 41
    assert statistics().thread - before == 41


async def test_changes_ahead_are_seen(parts: pathlib.Path, trusted: None) -> None:
    """What a synchronous walk sees, of changes to what comes, is seen."""
    seen: dict[str, list[str]] = {}
    gone: list[str] = []
    async for root, directories, others in steps(parts, on_error=lambda e: gone.append(e.filename)):
        name = os.path.basename(root)
        seen[name] = sorted([*directories, *others])
        if name == "parts":
            directories.sort()
        elif name == "02":
            (parts / "03" / "new").touch()
            (parts / "04" / "x").unlink()
            (parts / "05" / "x").rename(parts / "06" / "w")
            shutil.rmtree(parts / "07")
            (parts / "08" / "deep" / "deeper").mkdir(parents=True)
            (parts / "09").rename(parts / "tmp")
            (parts / "10").rename(parts / "09")
            (parts / "11" / "x").unlink()
            (parts / "11" / "x").mkdir()
        elif name == "06":
            assert gone == []
        elif name == "08":
            assert gone == [str(parts / "07")]
    assert [seen["03"], seen["04"]] == [["new", "x", "y", "z"], ["y", "z"]]
    assert [seen["05"], seen["06"]] == [["y", "z"], ["w", "x", "y", "z"]]
    assert [seen["08"], seen["deep"], seen["deeper"]] == [["deep", "x", "y", "z"], ["deeper"], []]
    assert seen["09"] == seen["12"] == seen["39"] == ["x", "y", "z"]
    assert [seen["x"], seen["11"]] == [[], ["x", "y", "z"]]
    assert seen.keys().isdisjoint(["07", "10"])
    assert gone == [str(parts / "07"), str(parts / "10")]


async def test_its_lists_can_be_changed(parts: pathlib.Path, trusted: None) -> None:
    (parts / "39" / "deep").mkdir()
    seen = []
    async for root, directories, _ in steps(parts):
        seen.append(os.path.relpath(root, parts))
        if root == str(parts):
            directories[:] = ["39", "none", "03", os.path.join("04", "..", "05")]
        elif root.endswith("39"):
            directories.clear()
            (parts / "late" / "later").mkdir(parents=True)
            directories.append(str(parts / "late"))
    assert seen == [".", "39", "late", "late/later", "03", "05"]


async def test_errors_are_met_in_their_turn(parts: pathlib.Path, trusted: None) -> None:
    for number in 3, 4, 30:
        shutil.rmtree(parts / f"{number:02}")
        (parts / f"{number:02}").symlink_to("nowhere")
    order = []

    def on_error(error: OSError) -> None:
        order.append(f"{type(error).__name__} {os.path.basename(error.filename)}")

    async for root, directories, _ in steps(parts, on_error=on_error):
        order.append(os.path.basename(root))
        if root == str(parts):
            directories[:] = [f"{number:02}" for number in range(40)]
    bad = {f"{number:02}": f"FileNotFoundError {number:02}" for number in (3, 4, 30)}
    expected = [f"{number:02}" for number in range(40)]
    assert order == ["parts", *(bad.get(name, name) for name in expected)]


async def test_an_error_handler_that_raises_ends_it(tmp_path: pathlib.Path) -> None:
    def on_error(error: OSError) -> None:
        raise error

    for top_down in True, False:
        with pytest.raises(FileNotFoundError) as caught:
            await anext(steps(tmp_path / "none", top_down, on_error))
        assert caught.value.filename == str(tmp_path / "none")
        assert [step async for step in steps(tmp_path / "none", top_down)] == []
        assert [step async for step in steps(os.devnull, top_down)] == []
        with pytest.raises(ValueError, match="null"):
            await anext(steps("nu\0l", top_down))


async def test_stopped_and_cancelled(parts: pathlib.Path, trusted: None) -> None:
    before = sorted(os.listdir("/proc/self/fd")) if sys.platform == "linux" else []
    for top_down in True, False:
        with anyio.CancelScope() as scope:
            async for _ in steps(parts, top_down):
                scope.cancel()
                await checkpoint()
        assert scope.cancelled_caught
        with anyio.CancelScope() as scope:
            scope.cancel()
            async for _ in steps(parts, top_down):
                pytest.fail("it was cancelled before it began")
    if before:
        assert sorted(os.listdir("/proc/self/fd")) == before


async def test_others_get_their_turns(
    tmp_path: pathlib.Path, trusted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A walk through what was read ahead waits for nothing, and gives way nevertheless."""
    monkeypatch.setattr(_walk, "CHUNK_SECONDS", 600)
    for number in range(1500):
        (tmp_path / str(number)).mkdir()
    longest = steps_in_turn = 0

    async def other() -> None:
        nonlocal steps_in_turn
        while True:
            await checkpoint()
            steps_in_turn = 0

    async with anyio.create_task_group() as group:
        group.start_soon(other)
        async for _ in steps(tmp_path):  # one hop reads more than five hundred
            steps_in_turn += 1
            longest = max(longest, steps_in_turn)
        group.cancel_scope.cancel()
    assert longest < 250


async def test_little_is_read_for_who_prunes(
    tmp_path: pathlib.Path, trusted: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []

    def reads(text: str, follow: bool) -> Any:
        read.append(text)
        return sorted_names(text, follow)

    monkeypatch.setattr(_walk, "sorted_names", reads)
    path = tmp_path
    for _ in range(30):
        for name in "abcdefgh":
            (path / name / "x").mkdir(parents=True)
        path /= "a"
    seen = 0
    async for _, directories, _ in steps(tmp_path):
        directories[:] = directories[:1] if "a" not in directories else ["a"]
        seen += 1
    assert 30 < seen < len(read) + 1 < 4 * seen


@pytest.mark.skipif(bool(cannot_fuse()), reason=f"{cannot_fuse()}")
async def test_a_mount_that_is_gone_round_is_not_touched(
    tmp_path: pathlib.Path, trusted: None
) -> None:
    for name in "abc":
        (tmp_path / name / "x").mkdir(parents=True)
    with FuseMount({"file": b""}, tmp_path / "b") as mount:
        before = mount.counts()
        async for root, directories, _ in steps(tmp_path):
            if root == str(tmp_path):
                assert sorted(directories) == ["a", "b", "c"]
                directories.remove("b")
        assert mount.counts() == before
        found = [os.path.relpath(root, tmp_path) async for root, _, _ in steps(tmp_path)]
        assert sorted(found) == [".", "a", "a/x", "b", "c", "c/x"]


TREES = st.recursive(
    st.just({}), lambda below: st.dictionaries(st.sampled_from("abcdef"), below, max_size=4)
)


@settings(deadline=None, max_examples=40)
@given(tree=TREES, seed=st.integers(0, 99), ahead=st.booleans())
def test_any_tree_pruned_and_changed_under_way(
    tmp_path_factory: pytest.TempPathFactory, tree: Any, seed: int, ahead: bool
) -> None:
    """The same choices beside the synchronous walk, each in a tree of its own."""

    def make(root: pathlib.Path, below: Any) -> None:
        root.mkdir()
        for name, inner in below.items():
            make(root / name, inner)
            (root / f"{name}.txt").touch()

    def visit(
        choose: random.Random, root: pathlib.Path, step: tuple[str, list[str], list[str]]
    ) -> Any:
        top, directories, others = step
        directories.sort()
        seen = (os.path.relpath(top, root), list(directories), sorted(others))
        if choose.random() < 0.3 and directories:
            directories.pop(choose.randrange(len(directories)))
        choose.shuffle(directories)
        if choose.random() < 0.3:
            folder = choose.choice(
                sorted(path for path in root.rglob("*") if path.is_dir()) or [root]
            )
            change = choose.randrange(3)
            if change == 0:
                (folder / f"new{choose.randrange(9)}").mkdir(exist_ok=True)
            elif change == 1:
                (folder / f"new{choose.randrange(9)}.txt").touch()
            elif folder != root:
                shutil.rmtree(folder)
        return seen

    home = tmp_path_factory.mktemp("trees")
    make(home / "a", tree)
    make(home / "b", tree)
    choose = random.Random(seed)
    expected = [visit(choose, home / "a", step) for step in os.walk(home / "a")]

    async def main() -> list[Any]:
        chosen = random.Random(seed)
        return [visit(chosen, home / "b", step) async for step in steps(home / "b")]

    with pytest.MonkeyPatch.context() as patch:
        if ahead:
            trust_stamps(patch)
        assert anyio.run(main) == expected


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Path.walk is newer")
@pytest.mark.parametrize("follow", [True, False])
@pytest.mark.parametrize("top_down", [True, False])
async def test_path_walk(tmp_path: pathlib.Path, top_down: bool, follow: bool) -> None:
    build(tmp_path / "tree")
    path: Any = Path(tmp_path / "tree")
    their: Any = tmp_path / "tree"
    found = [
        (str(root), sorted(d), sorted(f))
        async for root, d, f in path.walk(top_down, follow_symlinks=follow)
    ]
    assert found == [
        (str(root), sorted(d), sorted(f))
        for root, d, f in their.walk(top_down, follow_symlinks=follow)
    ]


@pytest.mark.skipif(sys.version_info < (3, 12), reason="Path.walk is newer")
async def test_path_walk_can_be_pruned_and_tells_errors(tmp_path: pathlib.Path) -> None:
    build(tmp_path / "tree")
    path: Any = Path(tmp_path / "tree")
    seen = []
    async for root, directories, _ in path.walk():
        assert type(root) is Path
        seen.append(root.name)
        if root.name == "tree":
            directories[:] = ["dir"]
            (tmp_path / "tree" / "dir" / "late").mkdir()
    assert sorted(seen) == ["dir", "late", "sub", "tree"]
    errors: list[OSError] = []
    async for _ in Path(tmp_path / "none").walk(on_error=errors.append):  # type: ignore[attr-defined]
        pytest.fail("there is nothing to be walked")
    assert [type(error) for error in errors] == [FileNotFoundError]
