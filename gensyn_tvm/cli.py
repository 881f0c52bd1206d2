"""The command line ``gensyn-tvm``: it parses, calls, and prints.

Exit codes: 0 success, 1 an error that the message explains, 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from gensyn_tvm import __version__, cli_examine, cli_weights
from gensyn_tvm.cli_output import Result, busy, print_error, progress, quiet, show
from gensyn_tvm.conversion.options import add_options as add_convert_options
from gensyn_tvm.errors import GensynError, InputError
from gensyn_tvm.tuning.options import add_options as add_tune_options

#: Losses of one output and one target whose type they know.
_LOSSES = (
    *("cross_entropy", "mean_squared_error", "binary_cross_entropy_with_logits", "l1", "huber", "smooth_l1"),
    *("kl_divergence", "nll", "cosine_similarity"),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code."""
    options = parser().parse_args(arguments)
    try:
        _check_outputs(options)
        code = options.command(options)
        # Here, so that a reader that has gone away is noticed inside the try.
        sys.stdout.flush()
        return int(code)
    except (GensynError, OSError) as error:
        if isinstance(error, BrokenPipeError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 1
        print_error(error, as_json=options.json)
        return 1
    except KeyboardInterrupt as interrupt:
        if interrupt.args:
            print(interrupt, file=sys.stderr)
        return 130


def parser() -> argparse.ArgumentParser:
    """The whole grammar of the command line."""
    top = argparse.ArgumentParser(
        prog="gensyn-tvm", description="Compile, train and run models with the same bits on every machine."
    )
    top.add_argument("--version", action="version", version=f"gensyn-tvm {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, function: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=text, description=text)
        sub.set_defaults(command=function)
        sub.add_argument("--json", action="store_true", help="print one JSON object for machines")
        return sub

    model = "an .onnx file, or file.py:function that returns (torch module, example inputs); the file is executed"
    sub = command("import", _import, "Save a model as a .gtvm file without compiling it.")
    sub.add_argument("model", help=model)
    _add_shapes(sub)
    _add_output(sub, "the .gtvm file to write")

    sub = command("convert", _convert, "Convert a model of any framework to a compiled .gtvm file, and compare the two.")
    add_convert_options(sub)
    _add_shapes(sub)
    _add_output(sub, "the .gtvm file to write")

    sub = command("train", _train, "Train: by a configuration file, or a model on arrays.")
    sub.add_argument("model", help=f"config.toml (docs/trainer.md), or {model}")
    given = sub.add_argument_group("with config.toml")
    given.add_argument("--resume", action="store_true", default=None, help="continue from the last whole checkpoint")
    given.add_argument("--steps", type=int, help="length of the whole run")
    given.add_argument(
        "--set", action="append", metavar="KEY=VALUE", help="another value, like optimizer.lr=1e-3; may be given again"
    )
    given = sub.add_argument_group("with a model")
    given.add_argument("--data", metavar="NPZ", help="required: samples: x (or the inputs by name) and y")
    given.add_argument("--loss", choices=_LOSSES, help="docs/losses.md; the default settings (cross_entropy)")
    given.add_argument("--optimizer", choices=("sgd", "adam", "adamw"), help="adamw if left out")
    given.add_argument("--lr", type=float, help="learning rate; the optimizer's default if left out")
    given.add_argument("--epochs", type=int, help="1 if left out")
    given.add_argument("--seed", type=int, help="0 if left out")
    given.add_argument("--target", help="native if left out")
    given.add_argument("--threads", type=int)
    given.add_argument("--checkpoint", metavar="GTVM", help="also save the training step with its whole state")
    _add_shapes(given)
    _add_output(given, "required: the .gtvm file to write: the trained model for inference", required=False)
    sub.set_defaults(usage_error=sub.error)

    sub = command("compile", _compile, "Compile a model or a .gtvm file for one or more targets.")
    sub.add_argument("model", help=f"a .gtvm file, {model}")
    sub.add_argument("--target", action="append", help="native, x86-64, x86-64-v3, x86-64-v4, c or cuda; may be given again")
    _add_shapes(sub)
    _add_output(sub, "the .gtvm file to write")

    sub = command("run", _run, "Run a compiled .gtvm file.")
    sub.add_argument("file", help="the .gtvm file")
    sub.add_argument("inputs", nargs="+", help="one .npz file with inputs by name, or .npy files by position")
    sub.add_argument("--target", help="which library of the file; the best for this machine if left out")
    sub.add_argument("--threads", type=int)
    _add_output(sub, "the .npz file to write", required=False)

    sub = command("inspect", cli_examine.inspect, "Show the canonical graph, any phase's IR, or the generated code.")
    sub.add_argument("model", help=f"a .gtvm file, {model}")
    what = sub.add_mutually_exclusive_group()
    what.add_argument("--phase", help="IR after a phase of the compiler; an unknown name lists them")
    what.add_argument("--code", action="store_true", help="generated assembly, or C for target c, CUDA C++ for cuda")
    what.add_argument("--diff", nargs=2, metavar="PHASE", help="what changed between two phases, function by function")
    what.add_argument("--memory", action="store_true", help="what it needs of memory, and the arrays alive where that is most")
    sub.add_argument("--kernel", metavar="NAME", help="with --diff: this function only")
    sub.add_argument("--target", default="native")
    _add_shapes(sub)

    sub = command("diff", cli_examine.diff, "Say how two programs differ: inputs, operators, the first other node.")
    sub.add_argument("model", help=f"a .gtvm file, {model}")
    sub.add_argument("other", help="the same")
    sub.add_argument("--normal", action="store_true", help="compare what they compute only, by their normal forms")
    _add_shapes(sub)

    sub = command("trace", cli_examine.trace, "Run a program in two ways and find the first operator whose results differ.")
    sub.add_argument("model", help=f"a .gtvm file, {model}")
    sub.add_argument("--inputs", metavar="NPZ", help="the batch by name; drawn from --seed if left out")
    sub.add_argument("--seed", type=int, default=0, help="of the drawn batch")
    sub.add_argument("--target", default="native", metavar="WAY", help="TARGET[:SCHEDULE[:THREADS]], or interpreter")
    sub.add_argument("--against", metavar="WAY", help="the reference; interpreter if left out, nothing with --nonfinite")
    sub.add_argument("--tolerance", type=float, help="relative to the largest magnitude of a value; bits if left out")
    sub.add_argument("--nonfinite", action="store_true", help="the first operator that makes NaN or infinity")
    sub.add_argument("--segment", type=int, default=64, metavar="N", help="operators compiled together")
    _add_shapes(sub)

    sub = command("profile", cli_examine.profile, "Say how long each kernel of a program takes on this machine.")
    sub.add_argument("model", help=f"a .gtvm file, {model}")
    sub.add_argument("--inputs", metavar="NPZ", help="the batch by name; drawn from --seed if left out")
    sub.add_argument("--seed", type=int, default=0, help="of the drawn batch")
    sub.add_argument("--target", default="native")
    sub.add_argument("--threads", type=int)
    sub.add_argument("--top", type=int, metavar="N", help="the slowest kernels only")
    _add_shapes(sub)

    sub = command("export-onnx", cli_weights.export_onnx, "Write a program as an ONNX file of standard operators.")
    cli_weights.add_onnx_options(sub)
    _add_shapes(sub)
    _add_output(sub, "the .onnx file to write")

    sub = commands.add_parser("weights", help="Weights to and from files of the frameworks (docs/weights.md).")
    cli_weights.add_options(sub.add_subparsers(metavar="DIRECTION", required=True))

    text = "Search for faster schedules of a model's products, and keep them as records (docs/tuning.md)."
    sub = command("tune", _tune, text)
    sub.add_argument("model", help=f"a .gtvm file, {model}")
    add_tune_options(sub)
    _add_shapes(sub)

    command("doctor", _doctor, "Say what this machine can build and run, and whether its arithmetic is sound.")
    sub = command("cache", _cache, "Show the build cache: where it is and how large (docs/usage.md).")
    sub.add_argument("--clear", action="store_true", help="remove what is in it")
    sub = command("demo", _demo, "Train two models and compare the bits of every configuration.")
    _add_output(sub, "folder for the plot and the report", required=False, default="demo-output")
    return top


def _add_shapes(sub: argparse._ActionsContainer) -> None:
    sub.add_argument("--shape", action="append", type=_shape, metavar="NAME=N,…", help="shape of an input; may be given again")
    sub.add_argument("--batch", type=int, metavar="N", help="batch size, where the model leaves it open")


def _add_output(sub: argparse._ActionsContainer, text: str, *, required: bool = True, default: str | None = None) -> None:
    sub.add_argument("-o", "--output", required=required, default=default, help=text)


def _shape(text: str) -> tuple[str, tuple[int, ...]]:
    name, _, extents = text.rpartition("=")
    try:
        if not name:
            raise ValueError("no name")
        return name, tuple(int(e) for e in extents.split(",") if e)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}; expected a name and integers, like image=64,1,8,8") from None


def _check_outputs(options: argparse.Namespace) -> None:
    """Before the work: files that could not be written after it."""
    from gensyn_tvm.runtime.file import check_destination

    files = [getattr(options, "checkpoint", None), None if options.command is _demo else getattr(options, "output", None)]
    for path in files:
        if path:
            check_destination(Path(path))
    if files[0] and files[1] and os.path.realpath(files[0]) == os.path.realpath(files[1]):
        raise InputError(f"--checkpoint and --output are one file: {files[0]}")


# ---- commands -------------------------------------------------------------------------------------------------------


def _import(options: argparse.Namespace) -> int:
    from gensyn_tvm import commands
    from gensyn_tvm.canonical import serialise
    from gensyn_tvm.runtime.packaging import save_source

    with busy("importing", options):
        source = commands.load_source(options.model, shapes=dict(options.shape or ()), batch=options.batch)
        save_source(Path(options.output), source)
    return show(options, {"output": options.output, "program": serialise.digest(source.graph)})


def _convert(options: argparse.Namespace) -> int:
    options.json = options.json or options.report == "json"
    from gensyn_tvm.conversion.command import run

    report = run(options, lambda stage: busy(stage, options))
    print(json.dumps(report.as_object()) if options.json else report.as_text())
    return 0


_CONFIG_OPTIONS = ("resume", "steps", "set")
_ARRAYS_OPTIONS = ("loss", "optimizer", "lr", "epochs", "seed", "target", "threads")


def _train(options: argparse.Namespace) -> int:
    by_config = options.model.endswith(".toml")
    foreign = (*_ARRAYS_OPTIONS, "data", "checkpoint", "shape", "batch", "output") if by_config else _CONFIG_OPTIONS
    wrong = [f"--{name}" for name in foreign if getattr(options, name) is not None]
    if wrong:
        remedy = "; use --set table.key=value" if by_config else ""
        options.usage_error(f"not with {'a configuration' if by_config else 'a model'}: {', '.join(wrong)}{remedy}")
    if not by_config and (options.data is None or options.output is None):
        options.usage_error("the following arguments are required: --data, -o/--output")
    return _train_config(options) if by_config else _train_arrays(options)


def _train_config(options: argparse.Namespace) -> int:
    from gensyn_tvm.commands_train import train_config

    overrides = options.set or ()
    trained = train_config(
        options.model, resume=bool(options.resume), steps=options.steps, overrides=overrides, progress=not quiet(options)
    )
    run = trained.training
    result: Result = {"training_program": trained.program, "steps": run.state.step}
    result |= {name: float(value) for name, value in run.metrics.items()}
    result |= {f"evaluation {name}": value for name, value in (run.evaluations[-1][1] if run.evaluations else {}).items()}
    if run.best:
        result["best"] = f"step {run.best['step']}, {run.best['name']} {float.fromhex(run.best['value'])}"
    if run.checkpoint:
        result["checkpoint"] = str(run.checkpoint)
    return show(options, {**result, "weights": run.state.digest()})


def _train_arrays(options: argparse.Namespace) -> int:
    from gensyn_tvm import commands
    from gensyn_tvm.compiler import compile
    from gensyn_tvm.runtime.packaging import save_executables

    with busy("importing", options):
        program = commands.load_model(options.model, shapes=dict(options.shape or ()), batch=options.batch)
        data = commands.load_arrays(options.data)
    given = {name: getattr(options, name) for name in _ARRAYS_OPTIONS}
    settings = commands.TrainingOptions(**{name: value for name, value in given.items() if value is not None})
    with progress("training", options) as report:
        trained = commands.train_model(program, data, settings, report)
    with busy("saving", options):
        model = compile(trained.model, settings.target, threads=settings.threads)
        model.save(options.output)
        if options.checkpoint:
            save_executables(Path(options.checkpoint), [trained.step], trained.state)
    result: Result = {
        "output": options.output,
        "program": model.digest,
        "training_program": trained.step.digest,
        "steps": trained.state.step,
        "first_loss": trained.losses[0],
        "last_loss": trained.losses[-1],
        "weights": trained.state.digest(),
    }
    return show(options, {**result, "checkpoint": options.checkpoint} if options.checkpoint else result)


def _compile(options: argparse.Namespace) -> int:
    from gensyn_tvm import commands
    from gensyn_tvm.compiler import compile
    from gensyn_tvm.runtime.packaging import save_executables
    from gensyn_tvm.targets.resolve import resolve

    with busy("importing", options):
        source = commands.load_source(options.model, shapes=dict(options.shape or ()), batch=options.batch)
    targets = list({resolve(t).name: None for t in options.target or ["native"]})
    executables = []
    with progress("compiling", options) as report:
        report(0, len(targets), None)
        for done, target in enumerate(targets, 1):
            executables.append(compile(source, target))
            report(done, len(targets), None)
    save_executables(Path(options.output), executables)
    return show(options, {"output": options.output, "program": executables[0].digest, "targets": targets})


def _run(options: argparse.Namespace) -> int:
    import numpy as np

    from gensyn_tvm import commands, load
    from gensyn_tvm.evidence.digests import array_digest, state_digest

    exe = load(options.file, target=options.target, threads=options.threads)
    with busy("running", options):
        outputs = commands.run_file(exe, options.inputs)
    if options.output:
        # A stream, because savez would append .npz to other names.
        with open(options.output, "wb") as stream:
            np.savez(stream, allow_pickle=False, **outputs)
    result: Result = {"program": exe.digest, "target": exe.target, "threads": exe.threads, "outputs": state_digest(outputs)}
    for name, array in outputs.items():
        result[f"output {name}"] = f"{array.dtype}{list(array.shape)} {array_digest(array)}"
    return show(options, {**result, "output": options.output} if options.output else result)


def _tune(options: argparse.Namespace) -> int:
    from gensyn_tvm import commands
    from gensyn_tvm.tuning.command import run

    with busy("importing", options):
        source = commands.load_source(options.model, shapes=dict(options.shape or ()), batch=options.batch)
    return show(options, run(options, source, quiet=quiet(options)))


def _doctor(options: argparse.Namespace) -> int:
    from gensyn_tvm import doctor

    with busy("examining this machine", options):
        checks = doctor.examine()
    print(doctor.as_json(checks) if options.json else doctor.as_text(checks))
    return 1 if any(check.status == "fail" for check in checks) else 0


def _cache(options: argparse.Namespace) -> int:
    from gensyn_tvm import build_cache

    place = build_cache.folder()
    if place is not None and options.clear:
        build_cache.clear(place)
    sizes = [size for _, size in build_cache.entries(place)] if place is not None else []
    found = {"folder": str(place or "off"), "libraries": len(sizes), "bytes": sum(sizes), "limit": build_cache.limit()}
    print(json.dumps(found) if options.json else "\n".join(f"{k:10} {v}" for k, v in found.items()))
    return 0


def _demo(options: argparse.Namespace) -> int:
    from gensyn_tvm.build_cache import fresh_builds
    from gensyn_tvm.demo.report import main as demo

    with fresh_builds():
        return int(demo(Path(options.output), as_json=options.json))


if __name__ == "__main__":
    sys.exit(main())
