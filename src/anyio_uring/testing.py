"""For tests of programs that use files: choose the tiers that serve them, and inject faults.

>>> import anyio, anyio_uring
>>> from anyio_uring.testing import force_tiers
>>> async def main():
...     async with await anyio_uring.open_file("/etc/passwd", "rb", 0) as f:
...         await f.read(10)
...     return anyio_uring.statistics().now
>>> with force_tiers("thread"):
...     anyio.run(main)
0
"""

from __future__ import annotations

from ._settings import force_tiers

__all__ = ["force_tiers"]
