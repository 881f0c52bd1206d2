"""Weights in both directions: arrays by the framework's names between programs, frameworks and files (docs/weights.md).

``weights_of`` and ``with_weights`` are the program's side, ``save_weights`` and ``load_weights`` files of every framework by
their suffix; ``weights.torch``, ``.keras``, ``.tensorflow`` and ``.onnx`` write into objects of the frameworks. Bits stay as
they are, and everything is checked before the first array is written.
"""

from gensyn_tvm.weights.files import load_weights, save_weights
from gensyn_tvm.weights.program import weights_of, with_weights

__all__ = ["load_weights", "save_weights", "weights_of", "with_weights"]
