"""Numbers of values: equal numbers for values that are the same operations on the same values (Alpern, Wegman, Zadeck 1988)."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Any

import tvm
from tvm import tirx

from gensyn_tvm.operators.exact import dtype_of
from gensyn_tvm.passes.order.affine import Form, Space, Unproved, bounds, constant, text

#: Index arithmetic is over the integers for these dtypes: TVM, too, takes it that they do not overflow.
_INDEX = {"int32": (-(2**31), 2**31 - 1), "int64": (-(2**63), 2**63 - 1)}

#: Hash of a variable (its address) → what it stands for.
Environment = Mapping[int, Form]
#: Value number of an element of a buffer.
Load = Callable[[Any, tuple[Form, ...]], int]


class Numbers:
    """The numbers given so far; one for both sides of a comparison."""

    def __init__(self) -> None:
        self.space = Space()
        self.keys: list[Hashable] = []
        self._numbers: dict[Hashable, int] = {}

    def of(self, *key: Hashable) -> int:
        """The number of a value that consists of these parts."""
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self.keys)
            self.keys.append(key)
        return number

    # ---- expressions -------------------------------------------------------------------------------------------------

    def value(self, expr: Any, env: Environment, load: Load) -> int:
        """The number of an expression."""
        kind = type(expr)
        if kind is tvm.ir.Call:
            return self._call(expr, env, load)
        if kind is tvm.ir.TensorLoad:
            return load(expr.source, tuple(self.index(i, env, load) for i in expr.indices))
        if kind is tirx.Select:
            return self._choice("select", expr.condition, expr.true_value, expr.false_value, env, load)
        if kind in _COMPARISONS:
            return self._comparison(expr, env, load)
        if kind in _LOGIC:
            return self._logic(expr, env, load)
        dtype = dtype_of(expr)
        if kind in _BITS or (kind in _ARITHMETIC and dtype not in _INDEX):
            return self.of(kind.__name__, dtype, self.value(expr.a, env, load), self.value(expr.b, env, load))
        if kind is tirx.BitwiseNot:
            return self.of(kind.__name__, dtype, self.value(expr.a, env, load))
        if dtype in _INDEX:
            return self.of("index", self.index(expr, env, load))
        if kind is tirx.IntImm:
            return self.of("constant", dtype, expr.value)
        if kind is tirx.Cast:
            return self.of("cast", dtype, dtype_of(expr.value), self.value(expr.value, env, load))
        raise Unproved(f"a {kind.__name__} expression: {str(expr)[:120]}")

    def index(self, expr: Any, env: Environment, load: Load) -> Form:
        """An integer expression as a form."""
        kind = type(expr)
        if kind is tvm.ir.Var:
            found = env.get(hash(expr))
            if found is None:
                raise Unproved(f"index {expr} is no loop or axis around it")
            return found
        if kind is tirx.IntImm:
            return constant(expr.value)
        if dtype_of(expr) in _INDEX:
            if kind in _ARITHMETIC:
                return self._arithmetic(kind, self.index(expr.a, env, load), self.index(expr.b, env, load))
            if kind is tirx.Cast:
                return self._cast(expr, env, load)
        if kind not in _LEAVES:
            raise Unproved(f"a {kind.__name__} expression: {str(expr)[:120]}")
        return self._unknown(self.value(expr, env, load), expr)

    def _cast(self, expr: Any, env: Environment, load: Load) -> Form:
        dtype = dtype_of(expr)
        if dtype_of(expr.value) in _INDEX:
            inner = self.index(expr.value, env, load)
            (low, high), (least, greatest) = bounds(inner), _INDEX[dtype]
            if low is not None and high is not None and least <= low and high <= greatest:
                return inner
        number = self.of("cast", dtype, dtype_of(expr.value), self.value(expr.value, env, load))
        return self._unknown(number, expr)

    def _unknown(self, number: int, expr: Any) -> Form:
        key = self.keys[number]
        if isinstance(key, tuple) and key[0] == "index":
            return key[1]
        return self.space.unknown(("value", number), str(expr)[:60])

    def _arithmetic(self, kind: Any, a: Form, b: Form) -> Form:
        space = self.space
        if kind is tirx.Add:
            return space.add(a, b)
        if kind is tirx.Sub:
            return space.add(a, b, -1)
        if kind is tirx.Mul:
            return space.product(a, b)
        if kind in (tirx.Min, tirx.Max):
            return space.extremum(a, b, 1 if kind is tirx.Min else -1)
        if not b[1] and b[0] > 0:
            low, _ = bounds(a)
            floors = kind in (tirx.FloorDiv, tirx.FloorMod) or (low is not None and low >= 0)
            if floors:
                return space.floordiv(a, b[0]) if kind in (tirx.FloorDiv, tirx.Div) else space.floormod(a, b[0])
        return space.unknown((kind.__name__, a, b), f"{kind.__name__}({text(a)}, {text(b)})")

    def _call(self, expr: Any, env: Environment, load: Load) -> int:
        name = str(getattr(expr.op, "name", expr.op)).split(".")[-1]
        args = list(expr.args)
        if name == "if_then_else":
            condition, yes, no = args
            return self._choice(name, condition, yes, no, env, load)
        if name == "likely":
            return self.value(args[0], env, load)
        return self.of(name, dtype_of(expr), *(self.value(a, env, load) for a in args))

    def _choice(self, name: str, condition: Any, yes: Any, no: Any, env: Environment, load: Load) -> int:
        decided = self.value(condition, env, load)
        if decided in (self.true, self.false):
            return self.value(yes if decided == self.true else no, env, load)
        return self.of(name, decided, self.value(yes, env, load), self.value(no, env, load))

    @property
    def true(self) -> int:
        """The number of ``True``."""
        return self.of("constant", "bool", 1)

    @property
    def false(self) -> int:
        """The number of ``False``."""
        return self.of("constant", "bool", 0)

    def _comparison(self, expr: Any, env: Environment, load: Load) -> int:
        kind = type(expr)
        if dtype_of(expr.a) not in _INDEX:
            return self.of(kind.__name__, self.value(expr.a, env, load), self.value(expr.b, env, load))
        a, b = self.index(expr.a, env, load), self.index(expr.b, env, load)
        if kind in (tirx.EQ, tirx.NE):
            form = self.space.add(a, b, -1)
            if form[1] and form[1][0][1] < 0:
                form = self.space.scale(form, -1)
            low, high = bounds(form)
            same: int | None = None
            if not form[1]:
                same = self.true if form[0] == 0 else self.false
            elif (low is not None and low > 0) or (high is not None and high < 0):
                same = self.false
            if kind is tirx.EQ:
                return self.of("zero", form) if same is None else same
            return self._negated(self.of("zero", form) if same is None else same)
        return self.number_of_fact(negative(self.space, kind, a, b))

    def number_of_fact(self, form: Form) -> int:
        """The number of ``form < 0``."""
        low, high = bounds(form)
        if high is not None and high < 0:
            return self.true
        if low is not None and low >= 0:
            return self.false
        return self.of("negative", form)

    def _negated(self, number: int) -> int:
        if number in (self.true, self.false):
            return self.false if number == self.true else self.true
        key = self.keys[number]
        if isinstance(key, tuple) and key[0] == "negative":  # not (x < 0)  =  -x - 1 < 0
            return self.number_of_fact(self.space.add(constant(-1), key[1], -1))
        if isinstance(key, tuple) and key[0] == "not":
            return int(key[1])
        return self.of("not", number)

    def _logic(self, expr: Any, env: Environment, load: Load) -> int:
        if type(expr) is tirx.Not:
            return self._negated(self.value(expr.a, env, load))
        a, b = self.value(expr.a, env, load), self.value(expr.b, env, load)
        neutral, absorbing = (self.true, self.false) if type(expr) is tirx.And else (self.false, self.true)
        if absorbing in (a, b):
            return absorbing
        if a in (neutral, b):
            return b
        return a if b == neutral else self.of(type(expr).__name__, a, b)


def negative(space: Space, kind: Any, a: Form, b: Form) -> Form:
    """The form that is negative exactly where the comparison holds."""
    if kind in (tirx.GT, tirx.GE):
        a, b, kind = b, a, tirx.LT if kind is tirx.GT else tirx.LE
    difference = space.add(a, b, -1)
    return difference if kind is tirx.LT else space.add(difference, constant(-1))


_COMPARISONS = (tirx.EQ, tirx.NE, tirx.LT, tirx.LE, tirx.GT, tirx.GE)
_BITS = (tirx.BitwiseAnd, tirx.BitwiseOr, tirx.BitwiseXor, tirx.LShift, tirx.RShift)
_LOGIC = (tirx.And, tirx.Or, tirx.Not)
#: Expressions of integers that are no sums: ``value`` numbers them without asking for their form.
_LEAVES = (tvm.ir.Call, tvm.ir.TensorLoad, tirx.Select, *_COMPARISONS, tirx.And, tirx.Or, tirx.Not, tirx.BitwiseNot, *_BITS)
_ARITHMETIC = (tirx.Add, tirx.Sub, tirx.Mul, tirx.FloorDiv, tirx.FloorMod, tirx.Div, tirx.Mod, tirx.Min, tirx.Max)
