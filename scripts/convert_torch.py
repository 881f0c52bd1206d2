"""Convert PyTorch models to .gtvm files: .pt2 files of torch.export.save, or module:callable.

    python scripts/convert_torch.py model.pt2 --output model.gtvm
    python scripts/convert_torch.py models.py:resnet --output model.gtvm --target x86-64 --target x86-64-v3

The same as ``gensyn-tvm convert --framework torch``; --help has all options. Exit status: 0 done; 1 an error, or
another result than PyTorch's, and nothing was written; 2 usage.
"""

from __future__ import annotations

import sys

from gensyn_tvm.cli import main

if __name__ == "__main__":
    sys.exit(main(["convert", "--framework", "torch", *sys.argv[1:]]))
