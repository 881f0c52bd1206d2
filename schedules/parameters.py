"""Parameters of the schedule rules: what a tuned record may say about one operator of one shape.

Each is a choice among programs with the same bits, so that only speed depends on it. A parameter that is None is left to the
rule: to its cost model or its constant.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from typing import Any, TypeVar

from gensyn_tvm.errors import InputError, describe

P = TypeVar("P", bound="Parameters")

#: Parameters of products that are no part of their layout; the schedule reads them from annotations ``gensyn.<name>``.
HINTED = ("threads_from", "by_chunks", "rows_outside")
#: Widths of panels of the operand that is read in scalars: what blocks of a transposition are made of.
LEFT_PANELS = (4, 8, 16)


def _flag() -> Any:
    return field(default=None, metadata={"expected": (False, True)})


def _choice(*expected: Any) -> Any:
    return field(default=None, metadata={"expected": expected})


def _whole(low: int, high: int) -> Any:
    return field(default=None, metadata={"expected": range(low, high + 1)})


@dataclass(frozen=True)
class Parameters:
    """What all rules have in common.

    Attributes:
        threads_from: work from which threads share it, in the unit of the rule's own threshold.
    """

    threads_from: int | None = _whole(0, 2**53)

    def given(self) -> dict[str, Any]:
        """The parameters that are not left to the rule, by name."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}

    def conflict(self) -> str:
        """Why parameters that are fine alone cannot be had together; empty if they can."""
        return ""


@dataclass(frozen=True)
class ProductParameters(Parameters):
    """Of everything that is a chunked product (``schedules.cpu.products``).

    Attributes:
        rows, vectors: the register tile, rows times whole vectors of columns.
        by_chunks: all tiles of a chunk before the next chunk, where a product without leading axes has several.
        rows_outside: the loop over tiles of columns inside the one over tiles of rows, where there is no block of rows.
    """

    rows: int | None = _whole(1, 32)
    vectors: int | None = _whole(1, 8)
    by_chunks: bool | None = _flag()
    rows_outside: bool | None = _flag()

    def conflict(self) -> str:
        """See ``Parameters``."""
        return "" if (self.rows is None) == (self.vectors is None) else "rows and vectors go together"

    def hints(self) -> dict[str, int]:
        """What the schedule reads from the annotations of the product's stages."""
        return {name: int(value) for name, value in self.given().items() if name in HINTED}


@dataclass(frozen=True)
class MatmulParameters(ProductParameters):
    """Of a matrix product (``passes.layout_matmul``).

    Attributes:
        transposed: the columns of the register tile are rows of the result.
        in_place: the operand that is read in vectors is not packed; its tile is the rule's.
        left_panel: the operand that is read in scalars is packed too, as wide as the tile has rows.
        block: register tiles of rows that stay in a cache while all columns pass by; 0: all.
        by_panel: the operand that is read in vectors is packed by the product's kernel, a chunk of a panel at a time.
        batch_inside: the loops over leading axes inside of the one over panels, where one set of panels serves them all.
    """

    transposed: bool | None = _flag()
    in_place: bool | None = _flag()
    left_panel: bool | None = _flag()
    by_panel: bool | None = _flag()
    block: int | None = _whole(0, 4096)
    batch_inside: bool | None = _flag()

    def conflict(self) -> str:
        """See ``Parameters``."""
        if self.in_place and set(self.given()) - {"in_place", *HINTED}:
            return f"in_place goes with {', '.join(HINTED)} only"
        if self.left_panel and self.rows not in (None, *LEFT_PANELS):
            return f"left_panel goes with rows of {', '.join(map(str, LEFT_PANELS))} only"
        if self.by_panel and set(self.given()) - {"by_panel", "transposed", "rows", "vectors", "threads_from"}:
            return "by_panel goes with transposed, rows, vectors and threads_from only"
        if self.block and self.batch_inside:
            return "block does not go with batch_inside"
        return super().conflict()


@dataclass(frozen=True)
class ConvolutionParameters(ProductParameters):
    """Of a convolution or its input gradient (``passes.layout_convolutions``).

    Attributes:
        layout: ``channels``: output channels in vectors, the last spatial axis in rows; ``positions``: all spatial axes, as
            one, in vectors, output channels in rows; ``lines``: the last one; ``depthwise``: the last one, the others in rows.
    """

    layout: str | None = _choice("channels", "positions", "lines", "depthwise")


@dataclass(frozen=True)
class WeightGradientParameters(ProductParameters):
    """Of a convolution's weight gradient."""


@dataclass(frozen=True)
class RowParameters(Parameters):
    """Of stages that run together row by row (``schedules.cpu.rows``).

    Attributes:
        tile_vectors: vectors of neighbouring results that a stage with a reduction takes through all terms.
        tile: neighbouring results of stages without one that run through all stages together.
    """

    tile_vectors: int | None = _whole(1, 64)
    tile: int | None = _whole(1, 2**20)


#: What a record's key begins with, and which parameters it may have.
KINDS: dict[str, type[Parameters]] = {
    "matmul": MatmulParameters,
    "conv": ConvolutionParameters,
    "conv_backward_data": ConvolutionParameters,
    "conv_backward_weight": WeightGradientParameters,
    "rows": RowParameters,
}


def expected_of(parameter: Field[Any]) -> Any:
    """The values that a parameter may have: a tuple or a range."""
    return parameter.metadata["expected"]


def parse(kind: str, values: Mapping[str, Any], where: str) -> Parameters:
    """Parameters from what a file says.

    Args:
        kind: one of ``KINDS``.
        values: by name.
        where: named in errors.

    Raises:
        InputError: an unknown kind or parameter, or a value that is out of range or does not go with the others.
    """
    if kind not in KINDS:
        raise InputError(
            describe("no schedule rule has such parameters", where=where, found=kind, expected=f"one of {', '.join(KINDS)}")
        )
    known = {f.name: f for f in fields(KINDS[kind])}
    for name, value in values.items():
        if name not in known:
            raise _invalid(f"unknown parameter {name!r} of {kind}", where, name, f"one of {', '.join(sorted(known))}")
        expected = expected_of(known[name])
        # True is 1 for Python, and no number of rows.
        if type(value) is not type(expected[0]) or value not in expected:
            text = f"an integer from {expected[0]} to {expected[-1]}" if isinstance(expected, range) else _listed(expected)
            raise _invalid(f"parameter {name!r} of {kind} is not valid", where, repr(value), text)
    parameters = KINDS[kind](**values)
    if conflict := parameters.conflict():
        raise _invalid(f"parameters of {kind} that cannot be had together", where, str(parameters.given()), conflict)
    return parameters


def _invalid(what: str, where: str, found: str, expected: str) -> InputError:
    return InputError(
        describe(what, where=where, found=found, expected=expected, remedy="correct or remove the record, or tune again")
    )


def _listed(values: tuple[Any, ...]) -> str:
    return " or ".join(repr(v).lower() if isinstance(v, bool) else repr(v) for v in values)


def is_ratio(value: Any) -> bool:
    """Whether a value is a finite positive number."""
    return type(value) in (int, float) and math.isfinite(value) and value > 0
