"""What comes in: examples/download.py from a server, uploads to examples/serve_fastapi.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.serving import ROOT, SIZES, Server, files, serving

LOOPS = {
    "asyncio": {"backend": "asyncio"},
    "uvloop": {"backend": "asyncio", "backend_options": {"use_uvloop": True}},
    "trio": {"backend": "trio"},
}
# The example several times, and what it looks like from inside; the first time makes what stays
DOWNLOAD = """
import json, os, sys, threading
import anyio, anyio_uring, download

async def main():
    held = []
    for _ in range(3):
        await download.main(*sys.argv[2:])
        held.append(len(os.listdir("/proc/self/fd")))
    threads = [thread.name for thread in threading.enumerate()]
    found = anyio_uring.statistics()
    print(json.dumps({**found._asdict(), "operations": {}, "held": held, "threads": threads}))

anyio.run(main, **json.loads(sys.argv[1]))
"""


@pytest.fixture(scope="module", params=["uvicorn-asyncio", "hypercorn-trio"])
def uploads(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, Path]]:
    folder = tmp_path_factory.mktemp("uploads")
    log = tmp_path_factory.mktemp("log") / "log"
    with serving(request.param, "serve_fastapi", "now ring thread", folder, log) as server:
        yield server, folder


@pytest.mark.parametrize("loop", LOOPS)
@pytest.mark.parametrize("name", ["small", "medium"])
def test_download_is_written_whole(
    folder: Path, uploads: tuple[Server, Path], tmp_path: Path, loop: str, name: str
) -> None:
    server, source = uploads
    (source / name).write_bytes((folder / name).read_bytes())
    target = tmp_path / "target"
    done = subprocess.run(
        [
            *(sys.executable, "-W", "error::RuntimeWarning", "-c", DOWNLOAD),
            *(json.dumps(LOOPS[loop]), f"{server.address}/files/{name}", target),
        ],
        env=os.environ | {"PYTHONPATH": str(ROOT / "examples")},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert target.read_bytes() == (folder / name).read_bytes()
    found = json.loads(done.stdout)
    assert found["held"][0] == found["held"][-1]
    assert found["now_opened"] + found["ring"] + found["thread"] >= 2  # opened, written
    assert found["inflight"] == found["queued"] == 0
    if found["driver"] == "uring":
        assert found["thread"] == 0
        assert found["threads"] == ["MainThread"]


@pytest.mark.parametrize("name", SIZES)
def test_upload_arrives_whole(folder: Path, uploads: tuple[Server, Path], name: str) -> None:
    """`medium` is more than what Starlette keeps in memory: it was in a temporary file."""
    server, target = uploads
    data = (folder / name).read_bytes()
    server.ask("/files/missing")  # a ring that the first one makes stays
    before = server.state()
    head = f'--edge\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
    answer = server.ask(
        "/files",
        "POST",
        head.encode() + data + b"\r\n--edge--\r\n",
        Content_Type="multipart/form-data; boundary=edge",
    )
    assert answer.status == 201, answer.body
    assert json.loads(answer.body) == {"name": name, "size": len(data)}
    assert (target / name).read_bytes() == data
    after = server.until(lambda state: files(state) <= files(before))
    served, served_before = (
        each["statistics"]["now_opened"] + each["statistics"]["ring"] + each["statistics"]["thread"]
        for each in (after, before)
    )
    assert served - served_before >= (2 if data else 1)  # opened, written
    spooled = {job for job in after["jobs"] if job.startswith("SpooledTemporaryFile.")}
    assert bool(spooled) == (name == "medium")
    if after["statistics"]["driver"] == "uring":
        assert after["statistics"]["thread"] == 0
        assert set(after["jobs"]) <= {"stat", *spooled}
