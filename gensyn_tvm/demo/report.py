"""Shows the demonstration: progress, the table, the plot of the losses."""

from __future__ import annotations

import json
import platform
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from gensyn_tvm.demo.run import PARTS, REQUIRED_ACCURACY, Report, run, write_json

#: Width of the table where the terminal does not tell (a log file).
_WIDTH = 110


def plot_losses(report: Report, path: Path) -> None:
    """The loss of every training step as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5))
    for name, losses in report.losses.items():
        axes.plot(losses, label=f"{name} (test accuracy {report.accuracy[name]:.2%})", linewidth=1)
    axes.set(xlabel="step", ylabel="cross-entropy", yscale="log", title="Training on the UCI digits")
    axes.legend()
    axes.grid(visible=True, alpha=0.3)
    figure.tight_layout()
    temporary = path.with_suffix(".tmp")
    figure.savefig(temporary, dpi=120, format="png")
    pyplot.close(figure)
    temporary.replace(path)


def table(report: Report) -> Table:
    """Configuration, time and digest; a section for each thing that is compared."""
    result = Table(title=f"Same model, same data, same seed ({platform.machine()})", title_justify="left")
    for heading in ("model", "by", "configuration"):
        result.add_column(heading, no_wrap=True)
    result.add_column("seconds", justify="right", no_wrap=True)
    result.add_column("SHA-256", no_wrap=True)
    keys = sorted({(r.model, r.what, r.who) for r in report.rows}, key=lambda k: (k[0], k[1], k[2] == "PyTorch"))
    for model, what, who in keys:
        rows = [r for r in report.rows if (r.model, r.what, r.who) == (model, what, who)]
        for row in rows:
            result.add_row(model, who, row.configuration, f"{row.seconds:.2f}", row.digest[:16])
        count = len({r.digest for r in rows})
        verdict = "[green]one digest[/]" if count == 1 else f"[red]{count} digests[/]"
        result.add_row("", "", f"[dim]{what}[/]", "", verdict, end_section=True)
    return result


def main(output: Path, *, as_json: bool = False) -> int:
    """Run the demonstration and write ``report.json`` and ``loss.png`` to ``output``.

    Returns 0 if every one of our digests agrees and both models reach the accuracy, else 1.
    """
    console = Console(stderr=as_json)
    if not console.is_terminal:
        console = Console(stderr=as_json, width=_WIDTH)
    output.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    bar = Progress(SpinnerColumn(), BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}"), console=console)
    with bar:
        task = bar.add_task("", total=PARTS)

        def finished(part: str) -> None:
            bar.advance(task)
            if not console.is_terminal:
                console.print(f"{time.perf_counter() - start:6.1f} s  {part}")

        report = run(lambda text: bar.update(task, description=text), finished)
    write_json(report, output / "report.json")
    plot_losses(report, output / "loss.png")
    console.print(table(report))
    for model, accuracy in report.accuracy.items():
        console.print(f"{model}: test accuracy {accuracy:.2%} (required {REQUIRED_ACCURACY:.0%})")
    console.print(f"plot and report in {output}; {time.perf_counter() - start:.0f} s")
    problems = report.problems()
    for problem in problems:
        console.print(f"[red]FAILED[/] {problem}")
    if as_json:
        print(json.dumps(report.json()))
    return 1 if problems else 0
