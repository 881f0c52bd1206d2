"""Search for faster schedules of a model's products, and keep them as records in schedules/tuned/.

    python scripts/tune.py model.onnx --target x86-64-v3 --trials 40

The same as ``gensyn-tvm tune``; --help has all options. Exit status: 0 done; 1 an error; 2 usage; 130 interrupted, and the
same command goes on.
"""

from __future__ import annotations

import sys

from gensyn_tvm.cli import main

if __name__ == "__main__":
    sys.exit(main(["tune", *sys.argv[1:]]))
