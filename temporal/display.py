"""Progress on stderr: bars with a rate and the time that is left; plain lines where there is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich import progress as rich_progress
from rich.console import Console
from rich.text import Text

from temporal.errors import plain

if TYPE_CHECKING:
    from temporal.agents.train import Progress

PLAIN_SECONDS = 10.0  # between lines where there is no terminal
WIDE = 200  # letters of a line there


class RateColumn(rich_progress.ProgressColumn):
    """Steps a second."""

    def __init__(self, unit: str) -> None:
        super().__init__()
        self._unit = unit

    def render(self, task: rich_progress.Task) -> Text:
        """Such as 12.3 updates/s."""
        return Text(f"{task.speed:.1f} {self._unit}/s" if task.speed else "", style="cyan")


Advance = Callable[[str, int, int], None]
"""Takes what is being done, how many steps are done, and how many there are (0 where that is not known)."""


class Plain(Console):
    """Shows texts as they are: names come from others, so they are no markup and hold no escape sequences."""

    def render_str(self, text: str, **settings: Any) -> Text:
        """The text, spelled out where it is not printable."""
        lines = (plain(line) for line in text.split("\n"))
        return super().render_str("\n".join(lines), **settings | {"markup": False, "emoji": False})


class Results(Plain):
    """Standard output; where that is no terminal, lines may be long."""

    def on_broken_pipe(self) -> None:
        """A reader that goes away, such as head, is no mistake; rich would exit with 1."""
        raise BrokenPipeError


def tell(told: object) -> None:
    """Print one line on stdout; what a name holds that is not printable is spelled out."""
    print(plain(str(told)))


def results() -> Console:
    """Where results are printed."""
    console = Results()
    return console if console.is_terminal else Results(width=WIDE)


@contextmanager
def bar(title: str, unit: str = "settings") -> Iterator[Advance]:
    """A bar that starts anew whenever what is being done starts from the beginning."""
    console = Plain(stderr=True)
    if not console.is_terminal:
        yield _plain(title, unit)
        return
    columns = (
        rich_progress.TextColumn("{task.description}", markup=False),
        rich_progress.BarColumn(),
        rich_progress.MofNCompleteColumn(),
        RateColumn(unit),
        rich_progress.TimeRemainingColumn(compact=True),
    )
    with rich_progress.Progress(*columns, console=console) as shown:
        task = shown.add_task(title, total=None)
        before = 0

        def advance(what: str, done: int, total: int) -> None:
            nonlocal before
            if done < before:
                shown.reset(task)
            before = done
            shown.update(
                task, description=plain(f"{title} {what}".strip()), completed=done, total=total or None
            )

        yield advance


def _plain(title: str, unit: str) -> Advance:
    """A line now and then, and one at each end."""
    started = last = time.monotonic()
    first = before = 0

    def advance(what: str, done: int, total: int) -> None:
        nonlocal started, last, first, before
        now = time.monotonic()
        if done < before or (
            before == 0 and done > 1 and total
        ):  # anew, or going on where another process stopped
            started, first = now, done
        before = done
        if done == total or now - last >= PLAIN_SECONDS:
            last = now
            rate = (done - first) / max(now - started, 1e-9)
            of = f"/{total}" if total else ""
            print(
                plain(f"{title} {what}".strip()) + f": {done}{of}, {rate:.1f} {unit}/s",
                file=sys.stderr,
                flush=True,
            )

    return advance


@contextmanager
def training_bar() -> Iterator[Progress]:
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
