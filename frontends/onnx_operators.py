"""The ONNX operators that can be imported. The list is closed: an operator that is not here is refused."""

from __future__ import annotations

from gensyn_tvm.frontends import blocks, onnx_index, onnx_quantised, onnx_resize, onnx_spatial, onnx_windows
from gensyn_tvm.frontends import onnx_converters as c
from gensyn_tvm.frontends.emit import nn, op
from gensyn_tvm.frontends.onnx_attention import ATTENTION
from gensyn_tvm.frontends.onnx_control import CONTROL
from gensyn_tvm.frontends.onnx_converters import Converter
from gensyn_tvm.frontends.onnx_folds import FOLDS
from gensyn_tvm.frontends.onnx_linear_attention import LINEAR_ATTENTION
from gensyn_tvm.frontends.onnx_losses import LOSSES
from gensyn_tvm.frontends.onnx_masks import MASKS
from gensyn_tvm.frontends.onnx_ml import ML
from gensyn_tvm.frontends.onnx_movement import MOVEMENT
from gensyn_tvm.frontends.onnx_norms import NORMS
from gensyn_tvm.frontends.onnx_numbers import NUMBERS
from gensyn_tvm.frontends.onnx_order import ORDER
from gensyn_tvm.frontends.onnx_random import RANDOM
from gensyn_tvm.frontends.onnx_recurrent import RECURRENT
from gensyn_tvm.frontends.onnx_reductions import REDUCTIONS
from gensyn_tvm.frontends.onnx_sequences import SEQUENCES
from gensyn_tvm.frontends.onnx_signal import SIGNAL
from gensyn_tvm.frontends.onnx_text import TEXT
from gensyn_tvm.frontends.onnx_training_ops import TRAINING_OPS

CONVERTERS: dict[str, Converter] = {
    **ATTENTION,
    **LINEAR_ATTENTION,
    **LOSSES,
    **ML,
    **NORMS,
    **RECURRENT,
    **TEXT,
    **TRAINING_OPS,
    **CONTROL,
    **FOLDS,
    **MASKS,
    **MOVEMENT,
    **NUMBERS,
    **RANDOM,
    **ORDER,
    **REDUCTIONS,
    **SIGNAL,
    **SEQUENCES,
    # elementwise
    "Add": c.convert_binary(op.add),
    "Sub": c.convert_binary(op.subtract),
    "Mul": c.convert_binary(op.multiply),
    "Max": c.convert_chain(op.maximum),
    "Min": c.convert_chain(op.minimum),
    "Sum": c.convert_chain(op.add),
    "Mean": c.convert_chain(op.add, mean=True),
    "Equal": c.convert_binary(op.equal),
    "Less": c.convert_binary(op.less),
    "LessOrEqual": c.convert_binary(op.less_equal),
    "Greater": c.convert_binary(op.greater),
    "GreaterOrEqual": c.convert_binary(op.greater_equal),
    "And": c.convert_binary(op.logical_and),
    "Or": c.convert_binary(op.logical_or),
    "Xor": c.convert_binary(op.not_equal),
    "Not": c.convert_unary(op.logical_not),
    "Where": lambda e, x, a: e(op.where(x[0], x[1], x[2])),
    "Abs": c.convert_unary(op.abs),
    "Neg": c.convert_unary(op.negative),
    "Sign": c.convert_sign,
    "IsInf": c.convert_is_inf,
    "Shrink": c.convert_shrink,
    "Floor": c.convert_unary(op.floor),
    "Ceil": c.convert_unary(op.ceil),
    "Round": c.convert_unary(op.round),
    "Exp": c.convert_unary(op.exp),
    "Log": c.convert_unary(op.log),
    "Sqrt": c.convert_unary(op.sqrt),
    "Erf": c.convert_unary(op.erf),
    "Sinh": c.convert_unary(op.sinh),
    "Cosh": c.convert_unary(op.cosh),
    "Atan": c.convert_unary(op.atan),
    "Tanh": c.convert_unary(op.tanh),
    "Sigmoid": c.convert_unary(op.sigmoid),
    "IsNaN": c.convert_unary(op.isnan),
    "Reciprocal": lambda e, x, a: e.div(1.0, x[0]),
    "Relu": c.convert_unary(nn.relu),
    "LeakyRelu": lambda e, x, a: e(nn.leakyrelu(x[0], c.convert_shortest(a.get("alpha", 0.01)))),
    "PRelu": c.convert_prelu,
    "ThresholdedRelu": c.convert_thresholded_relu,
    "Elu": lambda e, x, a: blocks.elu(e, x[0], c.convert_shortest(a.get("alpha", 1.0))),
    "Celu": lambda e, x, a: blocks.elu(
        e, x[0], c.convert_shortest(a.get("alpha", 1.0)), input_scale=1.0 / c.convert_shortest(a.get("alpha", 1.0))
    ),
    "Selu": lambda e, x, a: blocks.elu(e, x[0], a.get("alpha", 1.6732631921768188), scale=a.get("gamma", 1.0507010221481323)),
    "Gelu": c.convert_gelu,
    "Mish": lambda e, x, a: e.mul(x[0], e(op.tanh(blocks.softplus(e, x[0])))),
    "Softplus": lambda e, x, a: blocks.softplus(e, x[0]),
    "Softsign": lambda e, x, a: e.div(x[0], e.add(e(op.abs(x[0])), 1.0)),
    "HardSigmoid": c.convert_hard_sigmoid,
    "HardSwish": lambda e, x, a: e.mul(x[0], blocks.hard_sigmoid(e, x[0])),
    "Clip": c.convert_clip,
    "Identity": lambda e, x, a: [x[0]],
    # linear algebra, convolution, pooling
    **onnx_windows.CONVERTERS,
    **onnx_quantised.CONVERTERS,
    **onnx_resize.CONVERTERS,
    **onnx_spatial.CONVERTERS,
    # dropout
    "Dropout": c.convert_dropout,
    # indexing
    **onnx_index.CONVERTERS,
}

# Inputs that have to be constants: an initializer there is no parameter.
CONSTANT_INPUTS = {
    **{"Clip": (1, 2), "Pad": (2,), "Dropout": (1,), "Pow": (1,)},
    **{"Resize": (1, 2), "Upsample": (1,), "QuantizeLinear": (1,), "DequantizeLinear": (1,)},
    **{"QLinearMatMul": (1, 4, 6), "QLinearConv": (1, 4, 6)},
}
