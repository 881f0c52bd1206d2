"""The grammar of ``gensyn-tvm tune``; imports nothing heavy."""

from __future__ import annotations

import argparse


def add_options(sub: argparse.ArgumentParser) -> None:
    """All options but ``--shape`` and ``--batch``, which other commands have, too."""
    sub.add_argument("--target", default="native", help="native, x86-64, x86-64-v3 or x86-64-v4; this machine must run it")
    sub.add_argument("--trials", type=int, default=40, metavar="N", help="candidates of each product (40)")
    sub.add_argument("--time", type=float, metavar="S", help="seconds after which no further candidate is tried")
    sub.add_argument(
        "--threads",
        type=int,
        action="append",
        metavar="N",
        help="threads to measure with; may be given again (1 and all cores)",
    )
    sub.add_argument("--only", metavar="TEXT", help="products whose key contains this, like 'conv float32'")
    sub.add_argument("--journal", default="gensyn-tvm-tune.journal", help="file of all trials, from which it goes on")
