"""Owns what pyproject.toml cannot say: the compiled modules, their directives and the build modes.

`SHIKAKU_BUILD` chooses the mode: `release` (default), `debug` (-O0, symbols), `asan` (address and
undefined-behaviour sanitizers), `fuzz` (the same by clang, with the coverage that libFuzzer steers by; loads only
beside a libFuzzer: `make fuzz`), `trace` (line tracing for coverage and profilers).
"""

import os
import sys
from pathlib import Path

import numpy
from Cython.Build import cythonize
from setuptools import Extension, setup

MODE = os.environ.get("SHIKAKU_BUILD", "release")
COMMON = ["-Wall", "-Wextra", "-Wno-unused-parameter", "-Wno-unused-function", "-Wno-cast-function-type"]
if os.environ.get("CI"):
    COMMON.append("-Werror")
SANITIZERS = "-fsanitize=address,undefined"
FLAGS = {
    "release": (["-O3", "-g1", "-fno-plt"], []),
    "debug": (["-O0", "-g3"], []),
    "asan": (
        ["-O1", "-g3", SANITIZERS, "-fno-omit-frame-pointer"],
        [SANITIZERS],
    ),
    # The process ends at what is undefined: else libFuzzer would go on, and the input would be lost. Nothing is linked:
    # the sanitizers and libFuzzer come together, in the library that is loaded first.
    "fuzz": (
        ["-O2", "-g1", f"{SANITIZERS},fuzzer-no-link", "-fno-sanitize-recover=all", "-fno-omit-frame-pointer"],
        [],
    ),
    "trace": (["-O1", "-g3", "-DCYTHON_TRACE_NOGIL=1"], []),
}
if MODE not in FLAGS:
    sys.exit(f"SHIKAKU_BUILD={MODE!r} is unknown; choose one of: {', '.join(FLAGS)}")
if MODE == "fuzz":
    os.environ.setdefault("CC", "clang")

compile_flags, link_flags = FLAGS[MODE]
extensions = [
    Extension(
        f"ext.{source.stem}",
        [str(source)],
        include_dirs=[numpy.get_include()],
        extra_compile_args=COMMON + compile_flags,
        extra_link_args=link_flags,
        define_macros=[("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")],
    )
    for source in sorted(Path("ext").glob("*.pyx"))
]

setup(
    ext_modules=cythonize(
        extensions,
        compiler_directives={
            "language_level": 3,
            "boundscheck": False,
            "wraparound": False,
            "cdivision": True,
            "initializedcheck": False,
            "embedsignature": True,
            "linetrace": MODE == "trace",
        },
        annotate=bool(os.environ.get("SHIKAKU_ANNOTATE")),
        build_dir="build/cython",
    )
)
