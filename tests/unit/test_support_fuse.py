"""The file systems that other tests run on do what those tests rely on."""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.support import mounts
from tests.support.fuse import FS_TYPE, FuseMount, FuseServerError, cannot_fuse, cannot_mount

if TYPE_CHECKING:
    from collections.abc import Callable

needs_fuse = pytest.mark.skipif(cannot_fuse() is not None, reason=str(cannot_fuse()))
needs_mount = pytest.mark.skipif(cannot_mount() is not None, reason=str(cannot_mount()))

REPOSITORY = Path(__file__).parents[2]

# What is left to say of a file whose server has gone.
GONE = f"Errno ({errno.EIO}|{errno.ECONNABORTED}|{errno.ENOTCONN})"


class Call(threading.Thread):
    """A call in a thread of its own, which a hung mount may hold up."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        super().__init__(daemon=True)
        self._function = function
        self._args = args
        self._result: Any = None
        self._error: BaseException | None = None
        self.start()

    def run(self) -> None:
        try:
            self._result = self._function(*self._args)
        except BaseException as exc:  # noqa: BLE001 - raised again by result()
            self._error = exc

    def result(self) -> Any:
        self.join(10)
        assert not self.is_alive()
        if self._error is not None:
            raise self._error
        return self._result


def is_mounted(path: Path) -> bool:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return any(line.split()[4] == str(path) for line in lines)


@needs_fuse
@pytest.mark.parametrize("direct_io", [False, True])
@pytest.mark.parametrize("size", [0, 5, 4096, 3_000_000])
def test_reads_match(direct_io: bool, size: int) -> None:
    content = (b"0123456789abcde\n" * (size // 16 + 1))[:size]
    with FuseMount({"file": content}, direct_io=direct_io) as mount:
        assert (mount.path / "file").read_bytes() == content
        fd = os.open(mount.path / "file", os.O_RDONLY)
        try:
            assert os.pread(fd, 100, size // 2) == content[size // 2 :][:100]
            assert os.pread(fd, 100, size) == b""
        finally:
            os.close(fd)


@needs_fuse
@pytest.mark.parametrize("direct_io", [False, True])
def test_writes_match(direct_io: bool) -> None:
    big = bytes(range(256)) * 10_000
    with FuseMount({"old": b"0123456789"}, direct_io=direct_io) as mount:
        fd = os.open(mount.path / "old", os.O_RDWR)
        try:
            assert os.pwrite(fd, b"xy", 4) == 2
            assert mount.content("old") == b"0123xy6789"
            assert os.pwrite(fd, b"z", 12) == 1
            assert os.pread(fd, 20, 0) == b"0123xy6789\0\0z"
            os.ftruncate(fd, 3)
            os.fsync(fd)
            assert os.fstat(fd).st_size == 3
        finally:
            os.close(fd)
        with open(mount.path / "old", "ab") as file:
            file.write(b"end")
        assert mount.content("old") == b"012end"
        (mount.path / "old").write_bytes(big)
        assert mount.content("old") == big
        (mount.path / "new").write_bytes(b"new")
        assert mount.content("new") == (mount.path / "new").read_bytes() == b"new"
        counts = mount.counts()
        assert {"CREATE", "WRITE", "SETATTR", "FSYNC", "FLUSH"} <= set(counts)


@needs_fuse
def test_tree_and_attributes() -> None:
    with FuseMount({"b": b"1234", "d/e/f": b"deep", "a": b""}) as mount:
        assert mounts.fs_type(mount.path) == FS_TYPE
        assert os.listdir(mount.path) == ["a", "b", "d"]
        assert [entry.is_dir() for entry in os.scandir(mount.path)] == [False, False, True]
        assert (mount.path / "d" / "e" / "f").read_bytes() == b"deep"
        status = os.stat(mount.path / "b")
        assert status.st_size == 4
        assert status.st_mode == stat.S_IFREG | 0o644
        assert status.st_nlink == 1
        os.utime(mount.path / "b", ns=(1_000_000_007, 2_000_000_009))
        os.chmod(mount.path / "b", 0o600)
        status = os.stat(mount.path / "b")
        assert (status.st_atime_ns, status.st_mtime_ns) == (1_000_000_007, 2_000_000_009)
        assert stat.S_IMODE(status.st_mode) == 0o600
        (mount.path / "b").unlink()
        assert os.listdir(mount.path) == ["a", "d"]
        assert os.statvfs(mount.path).f_namemax == 255
        with pytest.raises(FileNotFoundError):
            (mount.path / "b").stat()
        with pytest.raises(OSError, match="not implemented"):
            (mount.path / "z").symlink_to("a")


@needs_fuse
def test_many_entries_are_listed() -> None:
    names = {f"{'name' * 20}-{number:04}" for number in range(2000)}
    with FuseMount(dict.fromkeys(names, b"")) as mount:
        assert set(os.listdir(mount.path)) == names
        assert mount.seen("READDIR") > 2


@needs_fuse
def test_names_are_cached_and_attributes_are_not() -> None:
    with FuseMount({"file": b""}) as mount:
        for _ in range(3):
            os.stat(mount.path / "file")
        assert mount.seen("LOOKUP") == 1
        before = mount.seen("GETATTR")
        os.stat(mount.path / "file")
        assert mount.seen("GETATTR") == before + 1
    with FuseMount({"file": b""}, entry_valid=0, attr_valid=3600) as mount:
        for _ in range(3):
            os.stat(mount.path / "file")
        assert mount.seen("LOOKUP") == 3
        assert mount.seen("GETATTR") == 0


@needs_fuse
def test_keep_cache() -> None:
    reads = []
    for keep_cache in (False, True):
        with FuseMount({"file": b"1234"}, keep_cache=keep_cache) as mount:
            for _ in range(3):
                assert (mount.path / "file").read_bytes() == b"1234"
            reads.append(mount.seen("READ"))
    assert reads == [3, 1]


@needs_fuse
def test_delay() -> None:
    with FuseMount({"slow": b"slow", "other": b"other"}) as mount:
        mount.delay(OPEN=0.2)
        start = time.monotonic()
        os.close(os.open(mount.path / "slow", os.O_RDONLY))
        assert time.monotonic() - start >= 0.2
        mount.delay(OPEN=0)
        assert (mount.path / "other").read_bytes() == b"other"


@needs_fuse
def test_delayed_requests_hold_up_nothing() -> None:
    with FuseMount({"slow": b"slow", "other": b"other"}) as mount:
        fd = os.open(mount.path / "other", os.O_RDONLY)
        try:
            mount.delay(OPEN=1.0)
            start = time.monotonic()
            calls = [Call((mount.path / "slow").read_bytes) for _ in range(20)]
            mount.wait_for("OPEN", 21)
            assert os.pread(fd, 10, 0) == b"other"
            assert all(call.is_alive() for call in calls)
            assert {call.result() for call in calls} == {b"slow"}
            assert 1.0 <= time.monotonic() - start < 10.0
        finally:
            os.close(fd)


@needs_fuse
@pytest.mark.parametrize("direct_io", [False, True])
def test_stall_and_release(direct_io: bool) -> None:
    with FuseMount({"file": b"content"}, direct_io=direct_io) as mount:
        mount.stall("READ")
        call = Call((mount.path / "file").read_bytes)
        mount.wait_for("READ", 1)
        assert mount.held("READ") == 1
        assert mount.interrupts == 0
        assert os.stat(mount.path / "file").st_size == 7
        assert call.is_alive()
        assert mount.release() == 1
        assert call.result() == b"content"
        assert mount.held("READ") == 0


@needs_fuse
def test_release_of_one_opcode_with_an_error() -> None:
    with FuseMount({"file": b"content"}) as mount:
        mount.stall("OPEN", "STATFS")
        calls = [Call(os.open, mount.path / "file", os.O_RDONLY), Call(os.statvfs, mount.path)]
        mount.wait_for("OPEN", 1)
        mount.wait_for("STATFS", 1)
        assert mount.release("OPEN", error=errno.ENOMEM) == 1
        with pytest.raises(OSError, match=f"Errno {errno.ENOMEM}"):
            calls[0].result()
        assert mount.held("STATFS") == 1
        assert calls[1].is_alive()
        assert mount.release("STATFS") == 1
        assert calls[1].result().f_namemax == 255


@needs_fuse
def test_wait_for_times_out() -> None:
    with FuseMount({}) as mount, pytest.raises(TimeoutError, match="1 READ requests not seen"):
        mount.wait_for("READ", 1, timeout=0.01)


@needs_fuse
def test_opcodes_are_checked() -> None:
    with FuseMount({}) as mount:
        with pytest.raises(ValueError, match="unknown"):
            mount.stall("READS")
        with pytest.raises(ValueError, match="cannot be delayed"):
            mount.delay(INIT=1)


@needs_fuse
@pytest.mark.parametrize("honour", [False, True])
def test_interrupts(honour: bool) -> None:
    previous = signal.signal(signal.SIGUSR1, lambda number, frame: None)
    try:
        with FuseMount({"file": b"content"}, direct_io=True, honour_interrupts=honour) as mount:
            fd = os.open(mount.path / "file", os.O_RDONLY)
            try:
                mount.stall("READ")
                call = Call(os.read, fd, 100)
                mount.wait_for("READ", 1)
                assert call.ident is not None
                signal.pthread_kill(call.ident, signal.SIGUSR1)
                mount.wait_for("INTERRUPT", 1)
                assert mount.interrupts == 1
                if honour:
                    mount.wait_for("READ", 2)  # Python tries again after EINTR
                assert mount.seen("READ") == 1 + honour
                assert call.is_alive()
                assert mount.release() == 1
                assert call.result() == b"content"
            finally:
                os.close(fd)
    finally:
        signal.signal(signal.SIGUSR1, previous)


@needs_fuse
@pytest.mark.parametrize("direct_io", [False, True])
def test_close_while_stalled(direct_io: bool) -> None:
    mount = FuseMount({"file": b"content"}, direct_io=direct_io)
    with mount:
        fd = os.open(mount.path / "file", os.O_RDONLY)
        mount.stall("READ", "FLUSH")
        call = Call(os.read, fd, 100)
        mount.wait_for("READ", 1)
        assert is_mounted(mount.path)
    assert not is_mounted(mount.path)
    assert not mount.path.exists()
    with pytest.raises(OSError, match=GONE):
        call.result()
    with pytest.raises(OSError, match=GONE):
        os.read(fd, 100)
    with contextlib.suppress(OSError):  # FLUSH fails, but the descriptor is gone
        os.close(fd)
    mount.close()
    with pytest.raises(FuseServerError, match="cannot reach"):
        mount.seen("READ")


@needs_fuse
def test_close_while_a_process_is_stuck() -> None:
    script = "import os, sys; os.read(os.open(sys.argv[1], os.O_RDONLY), 100)"
    with FuseMount({"file": b"content"}, direct_io=True) as mount:
        mount.stall("READ")
        process = subprocess.Popen(
            [sys.executable, "-c", script, mount.path / "file"], stderr=subprocess.PIPE, text=True
        )
        mount.wait_for("READ", 1)
        assert process.poll() is None
    _, stderr = process.communicate(timeout=10)
    assert process.returncode == 1
    assert "OSError" in stderr


@needs_fuse
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM])
def test_close_after_the_server_was_hit(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FuseMount, "CLOSE_TIMEOUT", 0.5)
    with FuseMount({"file": b"content"}) as mount:
        mount.stall("OPEN")
        call = Call((mount.path / "file").read_bytes)
        mount.wait_for("OPEN", 1)
        os.kill(mount.pid, number)
    assert not is_mounted(mount.path)
    assert not mount.path.exists()
    with pytest.raises(OSError, match=GONE):
        call.result()


@needs_fuse
def test_given_mountpoint_is_kept(tmp_path: Path) -> None:
    with FuseMount({"file": b"content"}, tmp_path) as mount:
        assert mount.path == tmp_path
        assert os.listdir(tmp_path) == ["file"]
    assert os.listdir(tmp_path) == []
    with pytest.raises(FuseServerError, match="No such file"):
        FuseMount({}, tmp_path / "missing")


@needs_fuse
@pytest.mark.parametrize("forked_child", [False, True])
def test_nothing_is_left_by_a_crash(forked_child: bool, tmp_path: Path) -> None:
    # The forked child keeps the server's control pipe open beyond the death of its parent.
    script = """
import os, signal, sys
from pathlib import Path
from tests.support.fuse import FuseMount
mount = FuseMount({"file": b""}, Path(sys.argv[1]))
mount.stall("OPEN")
print(mount.pid, flush=True)
if sys.argv[2] == "True" and os.fork() == 0:
    os.close(1)
    signal.pause()
sys.stdin.readline()
os.kill(os.getpid(), signal.SIGKILL)
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script, tmp_path, str(forked_child)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
        cwd=REPOSITORY,
    )
    with process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            server = os.pidfd_open(int(process.stdout.readline()))
            assert is_mounted(tmp_path)
            process.stdin.write(b"\n")
            process.stdin.flush()
            assert process.wait(10) == -signal.SIGKILL
            poll = select.poll()
            poll.register(server, select.POLLIN)
            assert poll.poll(10_000), "the server outlived the test process"
            os.close(server)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    assert not is_mounted(tmp_path)


@needs_fuse
def test_stale_mount_is_swept_up(tmp_path: Path) -> None:
    script = """
import os, signal, sys
from pathlib import Path
from tests.support.fuse import FuseMount
mount = FuseMount({}, Path(sys.argv[1]))
for pid in (mount.pid, os.getpid()):
    os.kill(pid, signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", script, tmp_path], cwd=REPOSITORY, timeout=30)
    assert done.returncode == -signal.SIGKILL
    with FuseMount({}):
        assert not is_mounted(tmp_path)


@needs_fuse
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # other threads, from 3.12
def test_forked_child_does_not_unmount() -> None:
    with FuseMount({"file": b"content"}) as mount:
        child = os.fork()
        if child == 0:
            try:
                mount.close()
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        assert (mount.path / "file").read_bytes() == b"content"


@needs_mount
def test_tmpfs() -> None:
    with mounts.tmpfs(1 << 20) as path:
        assert mounts.fs_type(path) == "tmpfs"
        with pytest.raises(OSError, match=f"Errno {errno.ENOSPC}"):
            (path / "file").write_bytes(bytes(2 << 20))
        left_open = open(path / "other", "wb")  # noqa: SIM115
    assert not path.exists()
    left_open.close()


@needs_mount
@pytest.mark.parametrize("own_base", [False, True])
def test_overlay(own_base: bool, tmp_path: Path) -> None:
    with mounts.overlay({"d/file": b"lower"}, tmp_path if own_base else None) as made:
        assert mounts.fs_type(made.path) == "overlay"
        assert (made.path / "d" / "file").read_bytes() == b"lower"
        (made.path / "d" / "file").write_bytes(b"upper")
        assert (made.upper / "d" / "file").read_bytes() == b"upper"
        assert (made.lower / "d" / "file").read_bytes() == b"lower"
    assert not is_mounted(made.path)


@needs_mount
@pytest.mark.parametrize("kind", ["ext4", "xfs", "btrfs"])
def test_loop(kind: str, tmp_path: Path) -> None:
    try:
        with mounts.loop(kind, directory=tmp_path) as path:
            assert mounts.fs_type(path) == kind
            (path / "file").write_bytes(b"content")
            mounts.drop_caches()
            assert (path / "file").read_bytes() == b"content"
    except mounts.MissingToolError as exc:
        pytest.skip(str(exc))
    assert not path.exists()
    assert os.listdir(tmp_path) == []


def test_missing_tool_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda *args, **kwargs: None)
    with (
        pytest.raises(mounts.MissingToolError, match="package xfsprogs"),
        mounts.loop("xfs"),
    ):
        pass


@needs_fuse
def test_files_are_renamed_and_replaced() -> None:
    with FuseMount({"a/file": b"one", "b/file": b"two"}) as mount:
        (mount.path / "a" / "file").replace(mount.path / "b" / "file")
        assert mount.content("b/file") == (mount.path / "b" / "file").read_bytes() == b"one"
        assert os.listdir(mount.path / "a") == []
        with pytest.raises(FileNotFoundError):
            (mount.path / "a" / "file").replace(mount.path / "b" / "file")


@needs_fuse
def test_disk_forgets_what_was_not_synced() -> None:
    with FuseMount({"old": b"old", "sub/old": b"old"}) as mount:
        with open(mount.path / "sub" / "new", "wb", 0) as file:
            file.write(b"first")
            os.fsync(file.fileno())
            file.write(b"second")
        (mount.path / "old").write_bytes(b"changed")
        old = {"old": b"old", "sub/old": b"old"}
        assert mount.after_power_cut(entries_synced=True) == old
        assert mount.after_power_cut(entries_synced=False) == {**old, "sub/new": b"first"}
        (mount.path / "sub" / "old").unlink()
        fd = os.open(mount.path / "sub", os.O_RDONLY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
        synced = mount.after_power_cut(entries_synced=True)
        assert synced == {"old": b"old", "sub/new": b"first"}
