"""``convert``: find, import, compile, compare, write; the file appears only if everything succeeded."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gensyn_tvm.compiler import compile, source_of
from gensyn_tvm.conversion.importers import Imported, import_model
from gensyn_tvm.conversion.report import Report, describe_graph
from gensyn_tvm.conversion.sources import Request, find
from gensyn_tvm.conversion.training import verify_training
from gensyn_tvm.conversion.verify import verify
from gensyn_tvm.runtime.file import check_destination
from gensyn_tvm.runtime.packaging import save_executables, save_source
from gensyn_tvm.targets.cpu import resolve_target

#: Wraps a stage of the conversion, whose name it gets: for progress.
Stage = Callable[[str], AbstractContextManager[Any]]


@dataclass(frozen=True)
class Settings:
    """What becomes of an imported model.

    Attributes:
        targets: of the machine code; none makes a file without any.
        verify: compare with the framework.
        tolerance: relative to the largest magnitude of each output.
        seed: of the random inputs.
        loss, optimizer: of the training step that is written for a request with ``train``.
    """

    targets: tuple[str, ...] = ("native",)
    verify: bool = True
    tolerance: float = 1e-4
    seed: int = 0
    loss: str = "cross_entropy"
    optimizer: str = "adamw"


def convert(request: Request, output: Path, settings: Settings | None = None, stage: Stage = nullcontext) -> Report:
    """Convert a model to a ``.gtvm`` file: its inference program, or with ``request.train`` a training step.

    Both are compared with the framework in inference; a training step also by its loss, gradients and next states.

    Raises:
        ImportModelError: no such model, one that would run code, options that do not apply.
        UnsupportedOperatorError: everything in the model that is not supported, in one error with its places.
        VerificationError: the results differ from the framework's.
        TargetError: an unknown target, or one that cannot be built here.
        OSError: the file cannot be written.
    """
    settings = settings or Settings()
    check_destination(output)
    targets = tuple({resolve_target(t).name: None for t in settings.targets})
    with stage("loading"):
        found = find(request)
    with stage("importing"):
        imported = import_model(found, request)
        program: Any = imported.program
        inference = source_of(program)
    if request.train:
        from gensyn_tvm.training.step import training_step

        with stage("building the training step"):
            program = training_step(program, loss=settings.loss, optimizer=settings.optimizer)
    source = source_of(program) if request.train else inference
    executables = []
    for target in targets:
        with stage(f"compiling for {target}"):
            executables.append(compile(source, target))
    verification, trained = None, None
    if settings.verify and not (request.train and imported.only_training):
        with stage("comparing with the framework"):
            exe = executables[0] if executables and not request.train else compile(inference, *targets[:1])
            verification = verify(exe, imported, tolerance=settings.tolerance, seed=settings.seed)
    if settings.verify and request.train and not isinstance(imported.training, str):
        with stage("comparing one step of training"):
            trained = verify_training(
                imported.program,
                imported.training,
                settings.loss,
                target=targets[0] if targets else "native",
                tolerance=settings.tolerance,
                seed=settings.seed,
            )
    with stage("writing"):
        if executables:
            save_executables(output, executables)
        else:
            save_source(output, source)
    return Report(
        model=request.model,
        framework=found.framework,
        kind="training step" if request.train else "inference",
        targets=targets,
        output=str(output),
        file_bytes=output.stat().st_size,
        verification=verification,
        training=trained,
        note=_note(imported, request),
        **describe_graph(source.graph, imported.program),
    )


def _note(imported: Imported, request: Request) -> str:
    """What cannot be compared of a training step, and why."""
    if not request.train:
        return ""
    if isinstance(imported.training, str):
        return imported.training
    return imported.only_training and f"inference is not compared: the file holds {imported.only_training}"
