"""The TensorFlow operators that can be imported. The list is closed: an operator that is not here is refused.

Variables, calls of functions and control flow are in ``tensorflow_graph``.
"""

from __future__ import annotations

from gensyn_tvm.frontends.tensorflow_converters import ELEMENTWISE, PRODUCTS, REDUCTIONS
from gensyn_tvm.frontends.tensorflow_movement import MOVEMENT
from gensyn_tvm.frontends.tensorflow_nodes import Converter
from gensyn_tvm.frontends.tensorflow_windows import WINDOWS

CONVERTERS: dict[str, Converter] = {**ELEMENTWISE, **REDUCTIONS, **PRODUCTS, **MOVEMENT, **WINDOWS}
