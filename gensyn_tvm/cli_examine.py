"""Commands that look at programs: inspect, diff, trace, profile."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

from gensyn_tvm.cli_output import busy
from gensyn_tvm.errors import InputError


def inspect(options: argparse.Namespace) -> int:
    """Show a program, a phase of its compilation, or its code."""
    from gensyn_tvm import commands
    from gensyn_tvm.canonical import serialise
    from gensyn_tvm.canonical.normal import structure_digest
    from gensyn_tvm.runtime.footprint import as_text

    with busy("reading", options):
        if options.diff:
            return _inspect_diff(options)
        if options.kernel:
            raise InputError("--kernel needs --diff")
        source = commands.load_source(options.model, shapes=dict(options.shape or ()), batch=options.batch)
        if options.memory:
            from gensyn_tvm.compiler import compile

            found = compile(source, options.target).footprint()
        phase = "code" if options.code else options.phase
        if phase:
            from gensyn_tvm.compiler import phases

            texts = phases(source.graph, options.target)
            if phase not in texts:
                raise InputError(f"unknown phase {phase!r}; expected one of {', '.join(texts)}")
    if options.memory:
        print(json.dumps(asdict(found)) if options.json else as_text(found))
    elif phase:
        print(json.dumps({"phase": phase, "target": options.target, "text": texts[phase]}) if options.json else texts[phase])
    elif options.json:
        print(serialise.dumps(source.graph))
    else:
        print(f"digest {serialise.digest(source.graph)}")
        print(f"structure {structure_digest(source.graph)}")
        print(commands.listing(source.graph))
    return 0


def _inspect_diff(options: argparse.Namespace) -> int:
    from gensyn_tvm import commands, phase_diff

    program = commands.load_any(options.model, shapes=dict(options.shape or ()), batch=options.batch)
    functions = phase_diff.phase_functions(program, options.diff, options.target)
    before, after = options.diff
    diffs = phase_diff.difference(functions[before], functions[after], options.kernel)
    if options.json:
        print(json.dumps({"phases": options.diff, "target": options.target, "functions": [asdict(d) for d in diffs]}))
    else:
        phase_diff.print_lines(phase_diff.as_lines(diffs, (before, after)))
    return 0


def diff(options: argparse.Namespace) -> int:
    """Show how two programs differ; returns 1 if they do."""
    from gensyn_tvm import commands
    from gensyn_tvm.graph_diff import diff_graphs
    from gensyn_tvm.structure_diff import diff_structures

    names = (options.model, options.other)
    with busy("reading", options):
        first, second = (
            # The shapes of .gtvm files are fixed; the options are for the other one.
            commands.load_source(name)
            if name.endswith(".gtvm")
            else commands.load_source(name, shapes=dict(options.shape or ()), batch=options.batch)
            for name in names
        )
        found = None if options.normal else diff_graphs(first.graph, second.graph)
        structure = None if found and found.equal else diff_structures(first, second)
    equal = structure.equal if found is None and structure else bool(found and found.equal)
    if options.json:
        result = {**asdict(found), "equal": found.equal} if found else {"equal": equal}
        print(json.dumps({**result, "structure": asdict(structure) if structure else None}))
        return 0 if equal else 1
    lines = found.as_lines(names) if found else []
    print("\n".join([*lines, *(structure.as_lines(names) if structure else [])]))
    return 0 if equal else 1


def trace(options: argparse.Namespace) -> int:
    """Run a program in two ways; returns 1 if something was found."""
    from gensyn_tvm import commands
    from gensyn_tvm.evidence import report

    with busy("importing", options):
        source = commands.load_source(options.model, shapes=dict(options.shape or ()), batch=options.batch)
        given = commands.load_arrays(options.inputs) if options.inputs else None
    names = ("target", "against", "tolerance", "nonfinite", "seed", "segment")
    with busy("running", options):
        found = report.examine(source, given, **{name: getattr(options, name) for name in names})
    if options.json:
        print(json.dumps(found.as_object()))
    else:
        found.print()
    return 0 if found.clean else 1


def profile(options: argparse.Namespace) -> int:
    """Show what each kernel takes."""
    from gensyn_tvm import commands
    from gensyn_tvm.runtime.profile import as_text

    with busy("compiling", options):
        source = commands.load_source(options.model, shapes=dict(options.shape or ()), batch=options.batch)
        given = commands.load_arrays(options.inputs) if options.inputs else None
        rows = commands.profile(source, given, options.seed, target=options.target, threads=options.threads)
    print(json.dumps([asdict(row) for row in rows[: options.top]]) if options.json else as_text(rows, options.top))
    return 0
