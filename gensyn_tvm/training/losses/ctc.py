"""Connectionist temporal classification (Graves et al., ICML 2006), the forward recursion in logarithms, unrolled over time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from gensyn_tvm.canonical.types import TensorType
from gensyn_tvm.errors import InvalidProgramError, describe
from gensyn_tvm.training.emit import Emitter, Expr, dtype_of, number, op, shape_of
from gensyn_tvm.training.losses.base import (
    INDICES,
    OutputLoss,
    TargetTypes,
    check,
    check_reduction,
    reduced,
    single,
    type_of,
)
from gensyn_tvm.training.ops import stop_gradient

_LENGTHS = ("input_lengths", "target_lengths")


@dataclass(frozen=True)
class CTC(OutputLoss):
    """``F.ctc_loss`` of float32 log-probabilities (T, N, C), and padded labels (N, S), int64 or int32.

    With the labels l' = blank, t1, blank, t2, …, blank (2 S + 1 of them): a[0, s] = log_p[0, l'[s]] for s < 2, else -inf;
    a[t, s] = L(a[t-1, s], a[t-1, s-1], l'[s] is a label other than l'[s-2] ? a[t-1, s-2] : -inf) + log_p[t, l'[s]];
    L(x, y, z) = log((exp(x - m) + exp(y - m)) + exp(z - m)) + m with m = maximum(maximum(x, y), z), and -inf if m is -inf.
    Past its input length a sample's a stays. The loss of a sample is -(log(exp(x - m) + exp(y - m)) + m) with x, y = a[2 n],
    a[2 n - 1] for n labels (y = -inf for n = 0); 0 or inf without input, as n is 0 or not. ``mean``: each divided by
    maximum(n, 1), then their sum divided by N. ``sum``: their sum. A sample of infinite loss has gradient 0 (in PyTorch NaN).
    Every step of time is part of the program, so it grows with T.

    Attributes:
        blank: the class that is no label.
        zero_infinity: whether infinite losses count as 0.
        input_lengths: whether a batch comes with ``input_lengths`` (N,), in [0, T]; otherwise all are T.
        target_lengths: whether a batch comes with ``target_lengths`` (N,), in [0, S]; otherwise a sample's labels end before
            the first entry that is no label: negative, ``blank``, or C and above. Within given lengths such an entry makes
            the loss infinite (PyTorch refuses it).
        reduction: ``mean`` or ``sum``.

    Targets are ``target``, then the lengths that are asked for, of the dtype of ``target``.
    """

    name: ClassVar[str] = "ctc"
    blank: int = 0
    zero_infinity: bool = False
    input_lengths: bool = field(default=False, kw_only=True)
    target_lengths: bool = field(default=False, kw_only=True)
    reduction: str = field(default="mean", kw_only=True)

    def __post_init__(self) -> None:
        check(self, isinstance(self.blank, int) and self.blank >= 0, "blank must be a class")
        check_reduction(self, self.reduction)

    def targets(self, outputs: Mapping[str, Expr], target: TargetTypes) -> dict[str, TensorType]:
        (output,) = self.read(outputs)
        labels = self.target_type(output, single(self.name, target))
        lengths = TensorType(labels.shape[:1], labels.dtype)
        return {"target": labels, **{name: lengths for name in _LENGTHS if getattr(self, name)}}

    def target_type(self, output: Expr, target: TensorType | None) -> TensorType:
        found = type_of(output)
        if found.rank != 3 or found.dtype != "float32" or found.shape[0] < 1 or self.blank >= found.shape[2]:
            expected = f"float32 log-probabilities (time, N, classes), more than {self.blank} classes"
            raise self.refuse(str(found), expected, "return log_softmax, time first")
        batch = found.shape[1]
        if target is None or target.rank != 2 or target.shape[0] != batch or target.dtype not in INDICES:
            raise InvalidProgramError(
                describe(
                    "the target does not suit ctc",
                    found="none" if target is None else str(target),
                    expected=f"int64[{batch}, S] or int32[{batch}, S]: at most S labels for each sample",
                    remedy=f"give target=TensorType(({batch}, S), 'int64')",
                )
            )
        return target

    def emit(self, e: Emitter, outputs: Mapping[str, Expr], targets: Mapping[str, Expr]) -> Expr:
        (log_p,) = self.read(outputs)
        labels = targets["target"]
        is_label = self._is_label(e, labels, shape_of(log_p)[2])
        lengths = targets.get("target_lengths")
        if lengths is None:
            lengths = _leading(e, is_label, dtype_of(labels))
        losses = self._losses(e, log_p, _extended(e, labels, is_label, self.blank), lengths, targets.get("input_lengths"))
        if self.zero_infinity:
            infinite = e(op.equal(losses, number(math.inf, dtype_of(losses))))
            losses = e(op.where(infinite, number(0, dtype_of(losses)), losses))
        if self.reduction == "mean":
            at_least_one = e(op.maximum(lengths, number(1, dtype_of(lengths))))
            losses = e.div(losses, e.cast(at_least_one, dtype_of(losses)))
        return reduced(e, losses, self.reduction)

    def _is_label(self, e: Emitter, labels: Expr, classes: int) -> Expr:
        dtype = dtype_of(labels)
        inside = e(op.logical_and(e(op.greater_equal(labels, number(0, dtype))), e(op.less(labels, number(classes, dtype)))))
        return e(op.logical_and(inside, e(op.not_equal(labels, number(self.blank, dtype)))))

    def _losses(self, e: Emitter, log_p: Expr, states: _States, lengths: Expr, input_lengths: Expr | None) -> Expr:
        """The loss (N,) of every sample."""
        steps, batch, _ = shape_of(log_p)
        scores = states.scores(e, log_p)
        count = shape_of(states.labels)[1]
        never = number(-math.inf, dtype_of(log_p))
        alpha = e(op.where(states.starts(e), _step(e, scores, 0), never))
        for t in range(1, steps):
            new = e.add(states.arrive(e, alpha), _step(e, scores, t))
            if input_lengths is not None:
                runs = e(op.greater(e(op.reshape(input_lengths, [batch, 1])), number(t, dtype_of(input_lengths))))
                new = e(op.where(runs, new, alpha))
            alpha = new
        last = e(op.reshape(e.mul(lengths, 2), [batch, 1]))
        index = e(op.reshape(e(op.arange(0, count, 1, dtype_of(lengths))), [1, count]))
        ends = [_at(e, alpha, e(op.equal(index, place))) for place in (last, e.sub(last, 1))]
        loss = e(op.negative(log_of_sum(e, ends)))
        if input_lengths is None:
            return loss
        zero = number(0, dtype_of(lengths))
        empty = e(op.where(e(op.equal(lengths, zero)), number(0, dtype_of(loss)), number(math.inf, dtype_of(loss))))
        return e(op.where(e(op.greater(input_lengths, number(0, dtype_of(input_lengths)))), loss, empty))


@dataclass(frozen=True)
class _States:
    """The labels l' (N, 2 S + 1), blanks between them; where they are classes; where the blank before may be skipped."""

    labels: Expr
    exist: Expr
    skips: Expr

    def scores(self, e: Emitter, log_p: Expr) -> Expr:
        """log_p of every state (T, N, 2 S + 1); -inf where there is no class."""
        steps = shape_of(log_p)[0]
        index = e(op.broadcast_to(e(op.expand_dims(self.labels, 0)), [steps, *shape_of(self.labels)]))
        picked = e(op.gather_elements(log_p, index, 2))
        return e(op.where(self.exist, picked, number(-math.inf, dtype_of(log_p))))

    def starts(self, e: Emitter) -> Expr:
        """States that a path may start in (1, 2 S + 1): the first two."""
        count = shape_of(self.labels)[1]
        index = e(op.reshape(e(op.arange(0, count, 1, "int64")), [1, count]))
        return e(op.less(index, number(2, "int64")))

    def arrive(self, e: Emitter, alpha: Expr) -> Expr:
        """L of the paths that stay, come from the state before, and skip a blank."""
        count = shape_of(alpha)[1]
        never = number(-math.inf, dtype_of(alpha))
        shifted = e(op.nn.pad(alpha, [0, 0, 2, 0], pad_value=-math.inf))
        one, two = (e(op.strided_slice(shifted, [1], [k], [k + count], [1])) for k in (1, 0))
        return log_of_sum(e, [alpha, one, e(op.where(self.skips, two, never))])


def _extended(e: Emitter, labels: Expr, is_label: Expr, blank: int) -> _States:
    """The states of labels (N, S); what is no label stands as the blank."""
    batch, count = shape_of(labels)
    dtype = dtype_of(labels)
    empty = number(blank, dtype)
    known = e(op.expand_dims(e(op.where(is_label, labels, empty)), 2))
    blanks = e(op.full([batch, count, 1], empty, dtype))
    states = _closed(e, [blanks, known], empty)
    truth = e(op.expand_dims(is_label, 2))
    always = e(op.equal(blanks, empty))
    exist = _closed(e, [always, truth], number(True, "bool"))
    before = e(op.strided_slice(e(op.nn.pad(states, [0, 0, 2, 0], pad_value=blank)), [1], [0], [2 * count + 1], [1]))
    skips = e(op.logical_and(e(op.not_equal(states, empty)), e(op.not_equal(states, before))))
    return _States(states, exist, skips)


def _closed(e: Emitter, pair: Sequence[Expr], last: Expr) -> Expr:
    """The two of a pair (N, S, 1) in turns, and ``last`` at the end: (N, 2 S + 1)."""
    batch, count, _ = shape_of(pair[0])
    turns = e(op.reshape(e(op.concat(list(pair), 2)), [batch, 2 * count]))
    return e(op.concat([turns, e(op.full([batch, 1], last, dtype_of(last)))], 1))


def _leading(e: Emitter, valid: Expr, dtype: str) -> Expr:
    """How many entries of each row (N, S) come before the first that is not valid: (N,)."""
    batch, count = shape_of(valid)
    index = e(op.reshape(e(op.arange(0, count + 1, 1, dtype)), [1, count + 1]))
    ended = e(op.concat([valid, e(op.full([batch, 1], number(False, "bool"), "bool"))], 1))
    return e(op.min(e(op.where(ended, number(count, dtype), index)), 1, False))


def _step(e: Emitter, scores: Expr, t: int) -> Expr:
    """Row t of (T, N, states)."""
    return e(op.reshape(e(op.strided_slice(scores, [0], [t], [t + 1], [1])), shape_of(scores)[1:]))


def _at(e: Emitter, alpha: Expr, hit: Expr) -> Expr:
    """alpha (N, states) where ``hit``, at most once in a row, and -inf in rows without: (N,)."""
    inside = e(op.max(e.cast(hit, "int32"), 1, False))
    picked = e(op.sum(e(op.where(hit, alpha, number(-0.0, dtype_of(alpha)))), 1, False))
    return e(op.where(e(op.equal(inside, number(1, "int32"))), picked, number(-math.inf, dtype_of(alpha))))


def log_of_sum(e: Emitter, terms: Sequence[Expr]) -> Expr:
    """log(exp(x - m) + exp(y - m) + …) + m, m the largest, added from the left; -inf (with gradient 0) if all are -inf."""
    dtype = dtype_of(terms[0])
    largest = terms[0]
    for x in terms[1:]:
        largest = e(op.maximum(largest, x))
    never = number(-math.inf, dtype)
    dead = e(op.equal(largest, never))
    # m has gradient 0 altogether, but term by term only up to rounding.
    m = e(stop_gradient(e(op.where(dead, number(0, dtype), largest))))
    total = None
    for x in terms:
        term = e(op.exp(e.sub(x, m)))
        total = term if total is None else e.add(total, term)
    alive = e(op.where(dead, number(1, dtype), total))
    return e(op.where(dead, never, e.add(e(op.log(alive)), m)))
