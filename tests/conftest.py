"""Settings of the whole test run."""

from __future__ import annotations

import os

# TVM makes its thread pool at the first use in a process, which may be a test of stock TVM; any test may want four threads.
os.environ.setdefault("TVM_NUM_THREADS", "4")
# What is tested is what this code builds; the cache has tests of its own.
os.environ["GENSYN_TVM_CACHE"] = "off"
