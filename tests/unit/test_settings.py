"""Settings: what can be set, what is refused, and what the environment says."""

from __future__ import annotations

import dataclasses
import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

import anyio_uring
from anyio_uring import Settings, UringUnavailableError, _probe, _settings, configure
from anyio_uring.testing import force_tiers


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test starts as a new process would, and leaves nothing set."""
    before = _settings._current
    monkeypatch.delenv("ANYIO_URING_DRIVER", raising=False)
    _settings._current = None
    yield
    _settings._current = before


def unavailable() -> _probe.Verdict:
    return _probe._refused(OSError(errno.EPERM, "io_uring_setup: Operation not permitted"))


async def driver_of_a_run(path: Path) -> str:
    async with await anyio_uring.open_file(path, "wb", 0) as file:
        await file.write(b"abc")
    return anyio_uring.statistics().driver


def test_defaults_are_the_documented_ones() -> None:
    assert dataclasses.asdict(anyio_uring.current_settings()) == {
        "driver": "auto",
        "checkpoint_every": None,
        "inline_size_max": 1 << 20,
        "inflight_max": 1024,
        "workers_max": None,
        "cancel_grace": 0.01,
    }


def test_configure_changes_what_is_named_and_keeps_the_rest() -> None:
    changed = configure(inflight_max=16, cancel_grace=1)
    assert changed == anyio_uring.current_settings() == Settings(inflight_max=16, cancel_grace=1)
    assert configure(driver="thread") == Settings(driver="thread", inflight_max=16, cancel_grace=1)
    assert configure() == anyio_uring.current_settings()


def test_unknown_setting_is_a_type_error_that_names_the_known_ones() -> None:
    with pytest.raises(TypeError, match=r"no setting 'drvier'; there are: cancel_grace, .*driver"):
        configure(drvier="auto")
    assert anyio_uring.current_settings() == Settings()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"driver": "io_uring"}, "driver must be 'auto', 'uring' or 'thread', not 'io_uring'"),
        ({"driver": None}, "not None"),
        ({"checkpoint_every": 0}, "checkpoint_every must be at least 1, not 0"),
        ({"checkpoint_every": 1.5}, "checkpoint_every must be a whole number or None, not 1.5"),
        ({"checkpoint_every": True}, "checkpoint_every must be a whole number or None, not True"),
        ({"inline_size_max": -1}, "inline_size_max must be at least 0, not -1"),
        ({"inline_size_max": None}, "inline_size_max must be a whole number, not None"),
        ({"inflight_max": 0}, "inflight_max must be from 1 to 16384, not 0"),
        ({"inflight_max": 16385}, "inflight_max must be from 1 to 16384, not 16385"),
        ({"workers_max": 0}, "workers_max must be at least 1, not 0"),
        ({"workers_max": "4"}, "workers_max must be a whole number or None, not '4'"),
        ({"cancel_grace": -0.1}, "cancel_grace must be from 0 to 3600 seconds, not -0.1"),
        ({"cancel_grace": float("nan")}, "cancel_grace must be from 0 to 3600 seconds, not nan"),
        ({"cancel_grace": "1"}, "cancel_grace must be from 0 to 3600 seconds, not '1'"),
        ({"inflight_max": 8, "driver": "x"}, "driver must be"),
    ],
)
def test_bad_value_is_a_value_error_and_changes_nothing(change: dict[str, Any], text: str) -> None:
    with pytest.raises(ValueError, match=r"must be") as caught:
        configure(**change)
    assert text in str(caught.value)
    assert anyio_uring.current_settings() == Settings()


@pytest.mark.parametrize("driver", ["auto", "uring", "thread"])
def test_environment_sets_the_driver(driver: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYIO_URING_DRIVER", driver)
    assert anyio_uring.current_settings().driver == driver
    configure(inflight_max=8)
    assert anyio_uring.current_settings().driver == driver
    configure(driver="auto")
    assert anyio_uring.current_settings().driver == "auto"


def test_empty_environment_variable_is_none_at_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANYIO_URING_DRIVER", "")
    assert anyio_uring.current_settings().driver == "auto"


def test_bad_environment_variable_fails_at_first_use_and_says_which(tmp_path: Path) -> None:
    program = (
        "import anyio, anyio_uring\n"
        "async def main():\n"
        "    await anyio_uring.open_file('f', 'wb', 0)\n"
        "print('imported')\n"
        "anyio.run(main)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"ANYIO_URING_DRIVER": "uiring"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1
    assert result.stdout == "imported\n"
    assert result.stderr.rstrip().endswith(
        "ValueError: ANYIO_URING_DRIVER must be 'auto', 'uring' or 'thread', not 'uiring'"
    )
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_required_ring_that_cannot_be_had_is_an_error_with_cause_and_cure(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_probe, "probe", unavailable)
    configure(driver="uring")
    with pytest.raises(UringUnavailableError) as caught:
        anyio.run(driver_of_a_run, tmp_path / "f", backend=backend)
    assert caught.value.errno == errno.EPERM
    assert caught.value.reason == "io_uring_setup failed with EPERM (Operation not permitted)"
    assert caught.value.remedy == unavailable().remedy != ""
    assert caught.value.reason in str(caught.value)
    assert caught.value.remedy in str(caught.value)
    assert not (tmp_path / "f").exists()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_ring_that_cannot_be_had_is_replaced_by_threads(
    backend: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_probe, "probe", unavailable)
    assert anyio.run(driver_of_a_run, tmp_path / "f", backend=backend) == "thread"
    assert (tmp_path / "f").read_bytes() == b"abc"


def test_thread_driver_does_not_even_look_for_a_ring(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def probe() -> _probe.Verdict:
        raise AssertionError("asked for a ring")

    monkeypatch.setattr(_probe, "probe", probe)
    configure(driver="thread")
    assert anyio.run(driver_of_a_run, tmp_path / "f") == "thread"


def test_settings_of_a_run_are_those_of_its_first_use(tmp_path: Path) -> None:
    async def main() -> tuple[str, str]:
        first = await driver_of_a_run(tmp_path / "f")
        configure(driver="auto")
        return first, await driver_of_a_run(tmp_path / "f")

    configure(driver="thread")
    assert anyio.run(main) == ("thread", "thread")


@pytest.mark.parametrize("names", [(), ("rnig",), ("now", "threads")])
def test_force_tiers_refuses_what_is_no_tier(names: tuple[Any, ...]) -> None:
    with (
        pytest.raises(ValueError, match=r"tiers are 'now', 'ring' and 'thread'"),
        force_tiers(*names),
    ):
        pass


def test_force_tiers_is_undone_also_by_an_error_and_can_be_nested() -> None:
    with force_tiers("thread"):
        inner = force_tiers("now", "ring")
        inner.__enter__()
        assert _settings.allowed_tiers() == {"now", "ring"}
        assert not inner.__exit__(LookupError, LookupError("x"), None)
        assert _settings.allowed_tiers() == {"thread"}
    assert _settings.allowed_tiers() == {"now", "ring", "thread"}
