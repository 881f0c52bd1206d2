"""Convert TensorFlow models to .gtvm files: folders of SavedModels, or module:callable.

    python scripts/convert_tensorflow.py saved_model/ --batch 8 --output model.gtvm
    python scripts/convert_tensorflow.py models.py:function --output model.gtvm --target x86-64 --target x86-64-v3

The same as ``gensyn-tvm convert --framework tensorflow``; --help has all options. Exit status: 0 done; 1 an error, or
another result than TensorFlow's, and nothing was written; 2 usage.
"""

from __future__ import annotations

import sys

from gensyn_tvm.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", "--framework", "tensorflow", *sys.argv[1:]]))
