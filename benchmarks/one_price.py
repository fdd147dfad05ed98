"""One agent over all prices against agents trained for one price each: accuracy at equal FLOPs.

    python -m benchmarks.one_price --over RUN [RUN ...] --fixed RUN [RUN ...]

Both kinds are evaluated run folders (`temporal evaluate`). Each fixed run gives one point on test; the run over all
prices of the same seed is read off its test curve at the FLOPs of that point. Positive differences say that the agent
over all prices is the better one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table

from temporal.agents.trials import POLICY
from temporal.curve import AgentRun
from temporal.points import load_outcomes, read_points


def main() -> None:
    """Print the differences, their mean and its standard error over runs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--over", nargs="+", type=Path, required=True)
    parser.add_argument("--fixed", nargs="+", type=Path, required=True)
    options = parser.parse_args()
    over = {
        read_points(f / "points.jsonl")[0].seed: AgentRun.of(load_outcomes(f / "outcomes.npz"), POLICY)
        for f in options.over
    }
    table = Table("seed", "price", "FLOPs of full", "one price", "all prices, equal FLOPs", "difference")
    found: dict[float, list[float]] = {}
    for folder in options.fixed:
        point = next(
            p for p in read_points(folder / "points.jsonl") if p.split == "test" and p.agent == POLICY
        )
        same = float(over[point.seed].curve.accuracy_at(point.flops_mean))
        assert point.price is not None
        found.setdefault(point.price, []).append(same - point.accuracy)
        table.add_row(
            str(point.seed), f"{point.price:g}", f"{point.flops_mean / point.flops_full:.1%}",
            f"{point.accuracy:.2%}", f"{same:.2%}", f"{100 * (same - point.accuracy):+.2f}",
        )  # fmt: skip
    console = Console()
    console.print(table)
    for price, gaps in sorted(found.items()):
        console.print(
            f"price {price:g}: mean difference {100 * np.mean(gaps):+.2f} points over {len(gaps)} seed(s)"
        )
    every = np.concatenate(list(found.values()))
    error = every.std(ddof=1) / np.sqrt(len(every)) if len(every) > 1 else float("nan")
    console.print(
        f"all: {100 * every.mean():+.2f} points, standard error {100 * error:.2f}, n = {len(every)}"
    )


if __name__ == "__main__":
    main()
