"""Convert Keras models to .gtvm files: .keras and .h5 files, or module:callable.

    python scripts/convert_keras.py model.keras --batch 8 --output model.gtvm
    python scripts/convert_keras.py models.py:mobilenet --output model.gtvm --target x86-64 --target x86-64-v3

The same as ``gensyn-tvm convert --framework keras``; --help has all options. Exit status: 0 done; 1 an error, or
another result than Keras's, and nothing was written; 2 usage.
"""

from __future__ import annotations

import sys

from gensyn_tvm.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", "--framework", "keras", *sys.argv[1:]]))
