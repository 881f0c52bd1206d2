"""Chunked products: matrix products, convolutions and their gradients."""

from __future__ import annotations

from gensyn_tvm.operators.products.chunked import padded_columns, padded_rows, units_per_chunk
from gensyn_tvm.operators.products.convolution import conv, conv_backward_data, conv_backward_weight
from gensyn_tvm.operators.products.image import image
from gensyn_tvm.operators.products.matmul import matmul
from gensyn_tvm.operators.products.packing import pack
from gensyn_tvm.operators.products.weave import weave

__all__ = [
    "conv",
    "conv_backward_data",
    "conv_backward_weight",
    "image",
    "matmul",
    "pack",
    "padded_columns",
    "padded_rows",
    "units_per_chunk",
    "weave",
]
