"""Package layout; everything else is in pyproject.toml.

The folders ``frontends`` and ``schedules`` at the root are installed as ``gensyn_tvm.frontends`` and
``gensyn_tvm.schedules``. Inside ``gensyn_tvm`` two relative symlinks of the same names let a plain checkout, editors and
type checkers find them; packaging goes by the real folders.
"""

import numpy
from setuptools import Extension, find_packages, setup

MAPPED = ("frontends", "schedules")


def packages() -> list[str]:
    """Every package once, whether or not the checkout has the symlinks."""
    names = {"gensyn_tvm", *(f"gensyn_tvm.{p}" for p in find_packages("gensyn_tvm"))}
    for folder in MAPPED:
        names.add(f"gensyn_tvm.{folder}")
        names.update(f"gensyn_tvm.{folder}.{p}" for p in find_packages(folder))
    return sorted(names)


setup(
    packages=packages(),
    package_dir={"gensyn_tvm": "gensyn_tvm", **{f"gensyn_tvm.{folder}": folder for folder in MAPPED}},
    package_data={"": ["*.json", "*.onnx", "*.pyi", "py.typed"], "gensyn_tvm.schedules": ["tuned/*.json"]},
    include_package_data=False,
    ext_modules=[
        Extension(
            "gensyn_tvm.runtime._call",
            [f"gensyn_tvm/runtime/{name}.c" for name in ("_call", "_call_entry", "_call_pool", "_call_results")],
            depends=["gensyn_tvm/runtime/_call.h"],
            include_dirs=[numpy.get_include()],
            extra_compile_args=["-O2", "-Wall", "-Wextra", "-fvisibility=hidden"],
        )
    ],
)
