"""Updates in place: outputs of a step that may take the memory of the input whose next value they are.

A kernel may write an output over an input if it reads each of the input's elements for the last time where it writes the
same element of the output: in the statement that stores it, at the same index, or in loops that have ended before. Nobody else
may read the input afterwards, so calls whose results are outputs only wait for the last reader.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

from gensyn_tvm.errors import ScheduleError
from gensyn_tvm.operators.nest import AS_WRITTEN
from gensyn_tvm.passes.calls import Call, Calls, move
from gensyn_tvm.passes.order.blocks import Block, Loop, read_kernel


def overwritable(name: str, function: Any) -> dict[int, set[int]]:
    """For each output of a scheduled kernel, by number of parameter, the inputs over which it may be written."""
    if AS_WRITTEN in dict(function.attrs):
        return {}
    try:
        kernel = read_kernel(name, function)
    except ScheduleError:
        return {}
    if kernel.in_order or kernel.empty:
        return {}
    written = [k for k, p in enumerate(kernel.params) if any(p.same_as(b.store.buffer) for b in kernel.blocks)]
    read = [k for k in range(len(kernel.params)) if k not in written]
    return {o: {k for k in read if _may_be_over(kernel.params[o], kernel.params[k], kernel.blocks)} for o in written}


def _may_be_over(output: Any, given: Any, blocks: list[Block]) -> bool:
    if output.dtype != given.dtype or [int(e) for e in output.shape] != [int(e) for e in given.shape]:
        return False
    stores = [b for b in blocks if b.store.buffer.same_as(output)]
    if any(b.reductions or not _is_own(b, b.store.indices) for b in stores):
        return False
    for block in blocks:
        loads = [x for x in _loads(block) if x.source.same_as(given)]
        if any(block is s for s in stores):  # blocks that share an output out store each element once
            safe = all(_is_own(block, x.indices) for x in loads)
        else:
            safe = not loads or all(_ends_before(block, s) for s in stores)
        if not safe:
            return False
    return True


def _loads(block: Block) -> list[Any]:
    found: list[Any] = []
    for statement in (block.node.body, block.node.init):
        if statement is not None:
            tvm_ffi.structural_walk(statement, (tvm.ir.TensorLoad, found.append))
    return found


def _is_own(block: Block, indices: Any) -> bool:
    """Whether an index is the block's axes in their order: each run of the block has an element of its own."""
    return len(indices) == len(block.axes) and all(
        i.same_as(a.var) or (a.extent == 1 and isinstance(i, tirx.IntImm) and int(i) == 0)
        for i, a in zip(indices, block.axes, strict=True)
    )


def _ends_before(first: Block, second: Block) -> bool:
    """Whether ``first`` has run for the last time before ``second`` runs at all."""
    for a, b in zip(first.path, second.path, strict=False):
        if isinstance(a, Loop) and a is b:
            return False
        if isinstance(a, int) and isinstance(b, int):
            if a != b:
                return a < b
        else:
            return False
    return False


def updates_in_place(program: Calls, updates: Mapping[int, int], kernels: Mapping[str, Any]) -> dict[int, int]:
    """The outputs that may be written over the input that they update; moves their calls behind that input's last reader.

    Args:
        program: its calls.
        updates: output → the input whose next value it is.
        kernels: scheduled functions by name.
    """
    known: dict[str, dict[int, set[int]]] = {}
    pairs: dict[int, list[tuple[int, int]]] = {}
    for k, call in enumerate(program.calls):
        if any(v.array.kind == "output" and v.array.index in updates for v in call.written):
            if call.kernel not in known:
                known[call.kernel] = overwritable(call.kernel, kernels[call.kernel])
            pairs[k] = _pairs(program, call, updates, known[call.kernel])
    waiting = {k: max(_last_reader(program, i) for _, i in found) for k, found in pairs.items() if found}
    waiting = {k: last for k, last in waiting.items() if last > k and not _is_read(program.calls[k])}
    order = sorted(range(len(program.calls)), key=lambda k: (waiting.get(k, k), k in waiting, k))
    move(program, order)
    position = {old: new for new, old in enumerate(order)}
    return {
        output: given for k, found in pairs.items() for output, given in found if _last_reader(program, given) == position[k]
    }


def _pairs(program: Calls, call: Call, updates: Mapping[int, int], over: Mapping[int, set[int]]) -> list[tuple[int, int]]:
    """(output, input) of a call whose kernel may write the one over the other."""
    found = []
    for place, view in enumerate(call.arguments):
        own = view.array.kind == "output" and view.array.index in updates and place in over
        if own and program.outputs[view.array.index].array is view.array:
            given = updates[view.array.index]
            source = program.inputs[given].array
            places = [p for p, v in enumerate(call.arguments) if v.array is source]
            if len(places) == 1 and places[0] in over[place] and call.arguments[places[0]].type == view.type:
                found.append((view.array.index, given))
    return found


def _last_reader(program: Calls, given: int) -> int:
    shown = [v for v in program.outputs if v.array is program.inputs[given].array]
    return len(program.calls) if shown else max(program.inputs[given].array.readers)


def _is_read(call: Call) -> bool:
    return any(v.array.readers or v.array.kind != "output" for v in call.written)
