"""Decide whether this build carries the compiled core; pyproject.toml holds everything else."""

import os
import sys
from glob import glob

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

HINT = """
anyio-uring: the io_uring core did not compile. It needs a C compiler and Python's headers
(on Debian: apt-get install gcc python3-dev). With ANYIO_URING_NO_EXTENSION=1 in the environment
the pure version is installed, which works without io_uring: threads only.
"""


class BuildExtension(build_ext):
    """Says what to do about a failed compile and lets it fail: slowness must be asked for."""

    def build_extension(self, ext):
        try:
            super().build_extension(ext)
        except Exception:
            print(HINT, file=sys.stderr, flush=True)
            raise


extensions = []
if sys.platform == "linux" and os.environ.get("ANYIO_URING_NO_EXTENSION") != "1":
    from Cython.Build import cythonize

    extensions = cythonize(
        Extension(
            "anyio_uring._uring",
            ["ext/_uring.pyx"],
            include_dirs=["ext"],
            depends=sorted(glob("ext/*.h") + glob("ext/*.pxd")),
            extra_compile_args=["-O2"],
        ),
        include_path=["ext"],
        # Rings and operations cannot be pickled, and stubtest would report both additions.
        compiler_directives={
            "language_level": 3,
            "auto_pickle": False,
            "autotestdict": False,
            "binding": False,  # the interpreter has a short way to plain built-in functions
        },
    )

setup(ext_modules=extensions, cmdclass={"build_ext": BuildExtension})
