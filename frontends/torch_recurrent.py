"""PyTorch's RNN, GRU and LSTM over whole sequences, unrolled; their formulas are in docs/numerics.md.

Inside, a sequence is (steps, batch, features). Each step's part of the input's product is taken from one product over the
whole sequence. A GRU's gates are in the order r, z, n,
an LSTM's i, f, g, o.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from gensyn_tvm.frontends import blocks
from gensyn_tvm.frontends.emit import Emitter, Expr, nn, op, shape_of
from gensyn_tvm.frontends.torch_converters import Arguments, Converter
from gensyn_tvm.training import ops as gensyn

#: Values that a step carries to the next: (h,), or (h, c) for an LSTM.
State = tuple[Expr, ...]


@dataclass(frozen=True)
class _Layer:
    """One direction of one layer.

    Attributes:
        weights: for the input and for h. biases: for their products, or None.
        projection: of an LSTM's h, or None.
    """

    e: Emitter
    weights: tuple[Expr, Expr]
    biases: tuple[Expr | None, Expr | None]
    projection: Expr | None

    def gates(self, x: Expr, h: Expr, count: int) -> tuple[list[Expr], list[Expr]]:
        """Both products, split into ``count`` gates (batch, hidden)."""
        y = blocks.linear(self.e, h, self.weights[1], self.biases[1])
        width = shape_of(y)[1] // count
        return (
            [self.e.slice(x, 1, k * width, (k + 1) * width) for k in range(count)],
            [self.e.slice(y, 1, k * width, (k + 1) * width) for k in range(count)],
        )


Step = Callable[[_Layer, Expr, State], State]


def _rnn(function: Callable[[Expr], Expr]) -> Step:
    def step(layer: _Layer, x: Expr, state: State) -> State:
        (h,) = state
        return (layer.e(function(layer.e.add(x, blocks.linear(layer.e, h, layer.weights[1], layer.biases[1])))),)

    return step


def _gru(layer: _Layer, x: Expr, state: State) -> State:
    e, (h,) = layer.e, state
    (xr, xz, xn), (hr, hz, hn) = layer.gates(x, h, 3)
    r, z = e(op.sigmoid(e.add(xr, hr))), e(op.sigmoid(e.add(xz, hz)))
    n = e(op.tanh(e.add(xn, e.mul(r, hn))))
    return (e.add(e.mul(e.sub(1.0, z), n), e.mul(z, h)),)


def _lstm(layer: _Layer, x: Expr, state: State) -> State:
    e, (h, c) = layer.e, state
    sums = e.add(x, blocks.linear(e, h, layer.weights[1], layer.biases[1]))
    width = shape_of(c)[1]
    i, f, g, o = (e.slice(sums, 1, k * width, (k + 1) * width) for k in range(4))
    i, f, g, o = e(op.sigmoid(i)), e(op.sigmoid(f)), e(op.tanh(g)), e(op.sigmoid(o))
    c = e.add(e.mul(f, c), e.mul(i, g))
    h = e.mul(o, e(op.tanh(c)))
    return (h if layer.projection is None else blocks.linear(e, h, layer.projection, None), c)


def _run(layer: _Layer, step: Step, x: Expr, state: State, *, backwards: bool) -> tuple[Expr, State]:
    """h after each step, (steps, batch, hidden), and the last state."""
    e = layer.e
    steps, batch, features = shape_of(x)
    projected = blocks.linear(e, e.reshape(x, [steps * batch, features]), layer.weights[0], layer.biases[0])
    outputs = []
    for k in range(steps)[:: -1 if backwards else 1]:
        state = step(layer, e.slice(projected, 0, k * batch, (k + 1) * batch), state)
        outputs.append(e.reshape(state[0], [1, batch, shape_of(state[0])[1]]))
    return e.concat(outputs[::-1] if backwards else outputs, 0), state


def _layers(e: Emitter, a: Arguments, projected: bool) -> list[_Layer]:
    """Every layer's directions, in the order of ``params``."""
    size = 2 + 2 * bool(a.has_biases) + projected
    layers = []
    for k in range(0, len(a.params), size):
        group = a.params[k : k + size]
        biases = (group[2], group[3]) if a.has_biases else (None, None)
        layers.append(_Layer(e, (group[0], group[1]), biases, group[-1] if projected else None))
    return layers


def convert_recurrent(step: Step) -> Converter:
    """[output, last h], or [output, last h, last c] for an LSTM."""

    def convert(e: Emitter, a: Arguments) -> Any:
        if not hasattr(a, "batch_first"):
            raise e.refuse("a packed sequence", expected="a tensor of padded sequences")
        starts = list(a.hx) if isinstance(a.hx, list) else [a.hx]
        directions = 2 if a.bidirectional else 1
        projected = len(a.params) != directions * a.num_layers * (4 if a.has_biases else 2)
        layers = _layers(e, a, projected)
        x = e.transpose(a.input, [1, 0, 2]) if a.batch_first else a.input
        if 0 in shape_of(x):
            raise e.refuse(f"a sequence of shape {tuple(shape_of(a.input))}", expected="no empty axis")
        finals: list[State] = []
        for number in range(a.num_layers):
            outputs = []
            for direction in range(directions):
                k = number * directions + direction
                y, final = _run(layers[k], step, x, _start(e, starts, k), backwards=direction == 1)
                outputs.append(y)
                finals.append(final)
            x = e.concat(outputs, 2)
            if a.train and a.dropout > 0 and number + 1 < a.num_layers:
                x = e(gensyn.dropout(x, p=a.dropout))
        return [e.transpose(x, [1, 0, 2]) if a.batch_first else x, *_stacked(e, finals)]

    return convert


def _start(e: Emitter, starts: Sequence[Expr], k: int) -> State:
    return tuple(e.reshape(e.slice(t, 0, k, k + 1), shape_of(t)[1:]) for t in starts)


def _stacked(e: Emitter, finals: Sequence[State]) -> list[Expr]:
    return [e.concat([e.reshape(t, [1, *shape_of(t)]) for t in parts], 0) for parts in zip(*finals, strict=True)]


RECURRENT: dict[str, Converter] = {
    "rnn_tanh.input": convert_recurrent(_rnn(op.tanh)),
    "rnn_relu.input": convert_recurrent(_rnn(nn.relu)),
    "gru.input": convert_recurrent(_gru),
    "lstm.input": convert_recurrent(_lstm),
}
