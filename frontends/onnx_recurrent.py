"""ONNX's RNN, GRU and LSTM, unrolled over the sequence; their formulas are in docs/numerics.md.

Inside, a sequence is (steps, batch, features). Each step's part of the input's product is taken from one product over
the whole sequence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from gensyn_tvm.canonical.types import FLOATS
from gensyn_tvm.frontends import blocks
from gensyn_tvm.frontends.emit import Emitter, Expr, dtype_of, nn, number, op, shape_of
from gensyn_tvm.frontends.onnx_converters import Attributes, Converter, Inputs, convert_shortest, padded_inputs

#: Values that a step carries to the next: (h,), or (h, c) for an LSTM.
State = tuple[Expr, ...]
Activation = Callable[[Expr], Expr]


@dataclass(frozen=True)
class _Direction:
    """One direction's weights, and what its steps need.

    Attributes:
        hidden: number of hidden features.
        recurrent: (hidden, gates * hidden). bias: (gates * hidden,) added to its product, or None.
        peephole: (1, hidden) for the gates i, o, f of an LSTM, or nothing.
        activations: by their order in the operator's formulas.
        clip: bound of what enters them, or None.
        reset_after, coupled: linear_before_reset of a GRU, input_forget of an LSTM.
    """

    e: Emitter
    hidden: int
    recurrent: Expr
    bias: Expr | None
    peephole: Sequence[Expr]
    activations: Sequence[Activation]
    clip: float | None
    reset_after: bool
    coupled: bool

    def gate(self, x: Expr, number: int) -> Expr:
        """One gate's part of (batch, gates * hidden)."""
        return self.e.slice(x, 1, number * self.hidden, (number + 1) * self.hidden)

    def product(self, h: Expr, first: int = 0, last: int | None = None) -> Expr:
        """h times the recurrent weights of some gates, plus their bias."""
        width = shape_of(self.recurrent)[1]
        begin, end = first * self.hidden, width if last is None else last * self.hidden
        y = self.e(op.matmul(h, self.e.slice(self.recurrent, 1, begin, end)))
        return y if self.bias is None else self.e.add(y, self.e.slice(self.bias, 0, begin, end))

    def activate(self, k: int, x: Expr) -> Expr:
        """Activation k of the clipped x."""
        x = x if self.clip is None else self.e.clip(x, -self.clip, self.clip)
        return self.activations[k](x)

    def peep(self, x: Expr, number: int, c: Expr) -> Expr:
        """x plus an LSTM gate's view of the cell."""
        return self.e.add(x, self.e.mul(c, self.peephole[number])) if self.peephole else x


Cell = Callable[[_Direction, Expr, State], State]


def _rnn(d: _Direction, x: Expr, state: State) -> State:
    (h,) = state
    return (d.activate(0, d.e.add(x, d.product(h))),)


def _gru(d: _Direction, x: Expr, state: State) -> State:
    e, (h,) = d.e, state
    if d.reset_after:
        from_state = d.product(h)
        z, r = (d.activate(0, e.add(d.gate(x, k), d.gate(from_state, k))) for k in (0, 1))
        new = e.mul(r, d.gate(from_state, 2))
    else:
        from_state = d.product(h, 0, 2)
        z, r = (d.activate(0, e.add(d.gate(x, k), d.gate(from_state, k))) for k in (0, 1))
        new = d.product(e.mul(r, h), 2, 3)
    new = d.activate(1, e.add(d.gate(x, 2), new))
    return (e.add(e.mul(e.sub(1.0, z), new), e.mul(z, h)),)


def _lstm(d: _Direction, x: Expr, state: State) -> State:
    e, (h, c) = d.e, state
    gates = e.add(x, d.product(h))
    i = d.activate(0, d.peep(d.gate(gates, 0), 0, c))
    f = e.sub(1.0, i) if d.coupled else d.activate(0, d.peep(d.gate(gates, 2), 2, c))
    c = e.add(e.mul(f, c), e.mul(i, d.activate(1, d.gate(gates, 3))))
    o = d.activate(0, d.peep(d.gate(gates, 1), 1, c))
    return (e.mul(o, d.activations[2](c)), c)


@dataclass(frozen=True)
class _Kind:
    """Gates, values that a step carries, default activations and the step of an operator."""

    gates: int
    carried: int
    activations: tuple[str, ...]
    cell: Cell


_KINDS = {
    "RNN": _Kind(1, 1, ("Tanh",), _rnn),
    "GRU": _Kind(3, 1, ("Sigmoid", "Tanh"), _gru),
    "LSTM": _Kind(4, 2, ("Sigmoid", "Tanh", "Tanh"), _lstm),
}

# ---- activations ----------------------------------------------------------------------------------------------------

#: For each activation its default alpha and beta (None: it has none) and the function of x, alpha and beta.
_ACTIVATIONS: dict[str, tuple[float | None, float | None, Callable[[Emitter, Expr, float, float], Expr]]] = {
    "affine": (1.0, 0.0, lambda e, x, a, b: e.add(e.mul(x, a), b)),
    "elu": (1.0, None, lambda e, x, a, b: blocks.elu(e, x, a)),
    "hardsigmoid": (0.2, 0.5, lambda e, x, a, b: e.clip(e.add(e.mul(x, a), b), 0.0, 1.0)),
    "leakyrelu": (0.01, None, lambda e, x, a, b: e(nn.leakyrelu(x, a))),
    "relu": (None, None, lambda e, x, a, b: e(nn.relu(x))),
    "scaledtanh": (1.0, 1.0, lambda e, x, a, b: e.mul(e(op.tanh(e.mul(x, b))), a)),
    "sigmoid": (None, None, lambda e, x, a, b: e(op.sigmoid(x))),
    "softplus": (None, None, lambda e, x, a, b: blocks.softplus(e, x)),
    "softsign": (None, None, lambda e, x, a, b: e.div(x, e.add(e(op.abs(x)), 1.0))),
    "tanh": (None, None, lambda e, x, a, b: e(op.tanh(x))),
    "thresholdedrelu": (1.0, None, lambda e, x, a, b: e.where(e(op.greater(x, number(a, dtype_of(x)))), x, 0.0)),
}


def _activations(e: Emitter, a: Attributes, kind: _Kind, directions: int) -> list[list[Activation]]:
    """The activations of every direction; those that take an alpha or beta consume the attributes' lists in order."""
    names = a.get("activations") or [*kind.activations] * directions
    if len(names) != len(kind.activations) * directions:
        raise e.refuse(f"{len(names)} activations", expected=f"{len(kind.activations)} for each direction")
    alphas, betas = (iter(map(convert_shortest, a.get(f"activation_{n}", []))) for n in ("alpha", "beta"))
    listed = [_activation(e, name, alphas, betas) for name in names]
    count = len(kind.activations)
    return [listed[k * count : (k + 1) * count] for k in range(directions)]


def _activation(e: Emitter, name: str, alphas: Iterator[float], betas: Iterator[float]) -> Activation:
    if name.lower() not in _ACTIVATIONS:
        raise e.refuse(f"activation {name!r}", expected=f"one of {', '.join(_ACTIVATIONS)}")
    default_alpha, default_beta, function = _ACTIVATIONS[name.lower()]
    alpha = 0.0 if default_alpha is None else next(alphas, default_alpha)
    beta = 0.0 if default_beta is None else next(betas, default_beta)
    return lambda x: function(e, x, alpha, beta)


# ---- the loop -------------------------------------------------------------------------------------------------------


def convert_recurrent(e: Emitter, x: Inputs, a: Attributes) -> list[Expr]:
    """[Y, Y_h] or [Y, Y_h, Y_c]"""
    kind = _KINDS[e.operator]
    sequence, weights, recurrent, bias, lengths, h, c, peephole = padded_inputs(x, 8)
    batch_first, direction = bool(a.get("layout", 0)), a.get("direction", "forward")
    if dtype_of(sequence) not in FLOATS or direction not in ("forward", "reverse", "bidirectional"):
        raise e.refuse(f"{dtype_of(sequence)}, direction {direction}", expected="floats, forward, reverse or bidirectional")
    directions = shape_of(weights)[0]
    if directions != (2 if direction == "bidirectional" else 1):
        raise e.refuse(f"weights for {directions} directions", expected=f"those of {direction}")
    if batch_first:
        sequence, h, c = (None if t is None else e.transpose(t, [1, 0, 2]) for t in (sequence, h, c))
    activations = _activations(e, a, kind, directions)
    outputs, finals = [], []
    for k in range(directions):
        own = _direction(e, a, kind, [_part(e, t, k) for t in (recurrent, bias, peephole)], activations[k])
        projected = _projected(e, sequence, e(op.permute_dims(_part(e, weights, k), [1, 0])), _part(e, bias, k))
        start = _start(e, sequence, own.hidden, [_part(e, t, k) for t in (h, c)][: kind.carried])
        backwards = direction == "reverse" or k == 1
        steps, final = _unrolled(own, kind.cell, projected, start, lengths, backwards=backwards)
        outputs.append(steps)
        finals.append(final)
    return _results(e, outputs, finals, batch_first=batch_first)


def _part(e: Emitter, x: Expr | None, k: int) -> Any:
    """Direction k of a tensor (directions, …)."""
    return None if x is None else e.reshape(e.slice(x, 0, k, k + 1), shape_of(x)[1:])


def _direction(e: Emitter, a: Attributes, kind: _Kind, parts: Sequence[Any], activations: Sequence[Activation]) -> _Direction:
    recurrent, bias, peephole = parts
    hidden = shape_of(recurrent)[1]
    width = kind.gates * hidden
    return _Direction(
        e=e,
        hidden=hidden,
        recurrent=e.transpose(recurrent, [1, 0]),
        bias=None if bias is None else e.slice(bias, 0, width, 2 * width),
        peephole=[] if peephole is None else [e.slice(peephole, 0, k * hidden, (k + 1) * hidden) for k in range(3)],
        activations=activations,
        clip=convert_shortest(a["clip"]) if a.get("clip") else None,
        reset_after=bool(a.get("linear_before_reset", 0)),
        coupled=bool(a.get("input_forget", 0)),
    )


def _projected(e: Emitter, sequence: Expr, weights: Expr, bias: Expr | None) -> Expr:
    """(steps, batch, features) times weights, plus the first half of the bias: (steps, batch, gates * hidden)."""
    steps, batch, features = shape_of(sequence)
    width = shape_of(weights)[1]
    y = e(op.matmul(e.reshape(sequence, [steps * batch, features]), weights))
    return e.reshape(y if bias is None else e.add(y, e.slice(bias, 0, 0, width)), [steps, batch, width])


def _start(e: Emitter, sequence: Expr, hidden: int, given: Sequence[Any]) -> State:
    zero = e.full([shape_of(sequence)[1], hidden], 0, dtype_of(sequence))
    return tuple(zero if t is None else t for t in given)


def _unrolled(
    d: _Direction, cell: Cell, projected: Expr, state: State, lengths: Expr | None, *, backwards: bool
) -> tuple[Expr, State]:
    """h after every step (steps, batch, hidden) and the last state; steps behind a sample's length change nothing, give 0."""
    e = d.e
    steps, batch, width = shape_of(projected)
    outputs: list[Expr] = []
    for step in range(e.check_steps(steps))[:: -1 if backwards else 1]:
        new = cell(d, e.reshape(e.slice(projected, 0, step, step + 1), [batch, width]), state)
        output = new[0]
        if lengths is not None:
            active = e.reshape(e(op.greater(lengths, number(step, dtype_of(lengths)))), [batch, 1])
            output = e.where(active, output, 0.0)
            new = tuple(e.where(active, fresh, old) for fresh, old in zip(new, state, strict=True))
        state = new
        outputs.append(e.reshape(output, [1, batch, d.hidden]))
    outputs = outputs[::-1] if backwards else outputs
    return e.concat(outputs, 0) if outputs else e.full([0, batch, d.hidden], 0, dtype_of(projected)), state


def _results(e: Emitter, outputs: Sequence[Expr], finals: Sequence[State], *, batch_first: bool) -> list[Expr]:
    """Outputs (steps, batch, hidden) and final states of every direction in ONNX's layouts."""
    steps, batch, hidden = shape_of(outputs[0])
    y = e.concat([e.reshape(o, [steps, 1, batch, hidden]) for o in outputs], 1)
    last = [e.concat([e.reshape(t, [1, batch, hidden]) for t in states], 0) for states in zip(*finals, strict=True)]
    if not batch_first:
        return [y, *last]
    return [e.transpose(y, [2, 0, 1, 3]), *(e.transpose(t, [1, 0, 2]) for t in last)]


RECURRENT: dict[str, Converter] = {name: convert_recurrent for name in _KINDS}
