"""Progress on stderr: bars with a rate and the time that is left; plain lines where there is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

PLAIN_SECONDS = 10.0  # between lines where there is no terminal


class RateColumn(ProgressColumn):
    """Steps a second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: Task) -> Text:
        """Such as 12.3 updates/s."""
        return Text(f"{task.speed:.1f} {self._unit}/s" if task.speed else "", style="cyan")


Advance = Callable[[str, int, int], None]
"""Takes what is being done, how many steps are done, and how many there are."""


@contextmanager
def bar(title: str, unit: str = "settings") -> Iterator[Advance]:
    """A bar that starts anew whenever what is being done starts from the beginning."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _plain(title)
        return
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), RateColumn(unit),
        TimeRemainingColumn(compact=True),
    )  # fmt: skip
    with Progress(*columns, console=console) as shown:
        task = shown.add_task(title, total=None)

        def advance(what: str, done: int, total: int) -> None:
            if done == 1:
                shown.reset(task, total=total)
            shown.update(task, description=f"{title} {what}".strip(), completed=done, total=total)

        yield advance


def _plain(title: str) -> Advance:
    """A line now and then."""
    started = last = time.monotonic()

    def advance(what: str, done: int, total: int) -> None:
        nonlocal started, last
        now = time.monotonic()
        if done == 1:
            started = now
        if done == total or now - last >= PLAIN_SECONDS:
            last = now
            rate = done / max(now - started, 1e-9)
            print(f"{title} {what}: {done}/{total}, {rate:.1f}/s", file=sys.stderr, flush=True)

    return advance


@contextmanager
def training_bar() -> Iterator[Callable[[str, int, int, dict[str, float]], None]]:
    """A bar for training that shows the latest loss, accuracy and mean FLOPs, smoothed."""
    smooth: dict[str, float] = {}
    with bar("training", "updates") as advance:

        def progress(phase: str, done: int, total: int, metrics: dict[str, float]) -> None:
            for name in ("loss", "accuracy", "flops_mean"):
                if name in metrics and done > 1 and name in smooth:
                    smooth[name] += 0.05 * (metrics[name] - smooth[name])
                elif name in metrics:
                    smooth[name] = metrics[name]
                else:
                    smooth.pop(name, None)
            told = [f"{name} {value:.3g}" for name, value in smooth.items()]
            advance(f"{phase} ({', '.join(told)})", done, total)

        yield progress
