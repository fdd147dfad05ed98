"""The command line: train, evaluate, plot, strips, score, cost, list, make-doom. Results go to stdout."""

from __future__ import annotations

import argparse
import itertools
import os
import re
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn

from temporal.errors import UserError, bad, plain, reason
from temporal.ranges import Count, Flops, NonNegative, Range, Seed, Workers, option

EPILOG = "`temporal COMMAND --help` says more. Mistakes are told in one line (exit 2); --debug shows where they arose."


SECTIONS = ("config", "data", "reader", "agent", "training", "evaluation", "chunk", "num_slots", "device")
"""Settings of an experiment, which train and cost take besides their own options."""

Wait = Annotated[float, Range(gt=0, le=1e6)]
DoomClips = Annotated[int, Range(ge=10, le=1_000_000)]

TRUST = (
    "import classes of the run that are not temporal's, which runs their code, take any tokenizer, model and size, "
    "and fetch what it names from the Hugging Face hub"
)


class Parser(argparse.ArgumentParser):
    """Tells a mistake in one line, as all others are told; takes no abbreviations, for settings may look like them."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(allow_abbrev=False, **settings)
        self.set_defaults(parser=self)

    def error(self, message: str) -> NoReturn:
        """Raise UserError in place of argparse's message."""
        where = self.prog.removeprefix("temporal").strip() or "command"
        options = [o for action in self._actions for o in action.option_strings if o.startswith("--")]
        if found := re.fullmatch(r"argument (\S+?)(?:/\S+)?: (got .*; expected .*)", message, re.DOTALL):
            raise UserError(f"{where}: {found[1]}, {found[2]}")
        if found := re.match(r"argument COMMAND: invalid choice: '(.*?)'", message):
            raise bad(where, "name", found[1], f"one of {', '.join(COMMANDS)}", COMMANDS)
        if found := re.match(r"argument (\S+): expected (.*?) arguments?$", message):
            raise UserError(f"{where}: {found[1]}, got nothing; expected {found[2]}")
        if found := re.match(r"argument (\S+): not allowed with argument (\S+)", message):
            raise UserError(f"{where}: {found[1]}, got {found[2]} as well; expected one of them")
        if found := re.match(r"the following arguments are required: (.*)", message):
            raise UserError(f"{where}: {found[1]}, got nothing; expected a value, see `{self.prog} --help`")
        if found := re.match(r"unrecognized arguments: (\S+)", message):
            raise bad(where, "option", found[1], f"one of {', '.join(options)}", options)
        raise UserError(f"{where}: {message}")


COMMANDS = ("train", "evaluate", "plot", "score", "cost", "list", "make-doom", "strips")


def make_parser() -> argparse.ArgumentParser:
    """The commands and their options; torch is not needed for it, so that --help is instant."""
    parser = Parser(prog="temporal", description="Agents that read sparingly.", epilog=EPILOG)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    train = commands.add_parser(
        "train",
        help="train a reader and an agent",
        description="Train by a YAML. Any setting can be overridden: --agent.hidden_size 32, --training.updates 0.",
    )
    train.add_argument("config", help="a YAML file, or the name of a shipped one (`temporal list`)")
    train.add_argument("--seed", type=option(Seed), help="of everything random")
    train.add_argument("--out", help="run folder; runs/CONFIG-seedN when left out")
    train.add_argument(
        "--resume", action="store_true", help="go on with the run in the folder, if there is one"
    )
    train.add_argument(
        "--reader-from", metavar="RUN", help="take the reader of a finished run and do not warm it up"
    )
    train.add_argument("--trust", action="store_true", help=f"of --reader-from: {TRUST}")
    train.add_argument("--tensorboard", action="store_true", help="write event files beside metrics.jsonl")
    train.add_argument(
        "--print-config", action="store_true", help="print the resolved configuration and stop"
    )

    evaluate = commands.add_parser("evaluate", help="trace agent and controls, with intervals")
    evaluate.add_argument(
        "runs", nargs="+", metavar="RUN", help="run folders; several seeds of one configuration"
    )
    evaluate.add_argument("--again", action="store_true", help="trace anew what was traced before")
    evaluate.add_argument("--trust", action="store_true", help=TRUST)

    plot = commands.add_parser("plot", help="draw accuracy against FLOPs of evaluated runs")
    plot.add_argument(
        "runs", nargs="+", metavar="RUN", help="evaluated run folders; several seeds make bands"
    )
    plot.add_argument("--out", default="curve.png", help="png or svg")
    plot.add_argument("--title", help="above the picture")
    plot.add_argument("--agents", nargs="*", help="draw these only")

    score = commands.add_parser("score", help="classify texts or videos within a budget")
    score.add_argument("run", help="run folder")
    score.add_argument(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="txt, parquet, csv, jsonl files; videos, globs, manifests of them (txt, csv, jsonl); folders",
    )
    budget = score.add_mutually_exclusive_group()
    budget.add_argument("--tokens", type=option(Count), help="most tokens read of each text")
    budget.add_argument("--frames", type=option(Count), help="most frames looked at in each video")
    budget.add_argument("--flops", type=option(Flops), help="most FLOPs spent on each text or video")
    score.add_argument(
        "--max-tokens",
        type=option(Count),
        help="texts are cut after so many tokens; as in training when left out",
    )
    score.add_argument(
        "--price", type=option(NonNegative), help="of one full reading; the lowest trained on when left out"
    )
    score.add_argument("--out", default="scores.parquet", help="parquet file of results")
    score.add_argument("--text-column", help="of tables; text when left out")
    score.add_argument(
        "--workers", type=option(Workers), help="processes that decode videos; one for each core but one"
    )
    score.add_argument(
        "--seconds-per-file",
        type=option(Wait),
        help="that decoding a video may take, or it is given up; 60 when left out",
    )
    score.add_argument(
        "--max-pixels",
        type=option(Count),
        help="of a video's frame; 100,000,000 when left out, three times 8K",
    )
    score.add_argument(
        "--lenient",
        action="store_true",
        default=None,
        help="score what is there of a damaged video; the column `missing` says what is not",
    )
    score.add_argument("--trust", action="store_true", help=TRUST)

    cost = commands.add_parser("cost", help="the price list of a configuration, before any training")
    cost.add_argument("config", help="a YAML file, or the name of a shipped one")

    doom = commands.add_parser(
        "make-doom",
        help="render a benchmark of videos with known truth",
        description="Walks through maps of a game in which one of eight monsters appears; needs the extra [doom].",
    )
    doom.add_argument("out", metavar="OUT", help="folder; what was rendered there before is kept")
    doom.add_argument("--clips", type=option(DoomClips), default=4000, help="in all three splits")
    doom.add_argument("--seed", type=option(Seed), default=0, help="the same seed makes the same bytes")
    doom.add_argument("--workers", type=option(Workers), help="processes; one for each core")
    doom.add_argument(
        "--busy",
        action="store_true",
        help="let other things come and go as the monster does, so that the size of a frame does not tell",
    )

    strips = commands.add_parser("strips", help="draw the frames that an agent looks at in some test videos")
    strips.add_argument("run", help="run folder")
    strips.add_argument("--clips", type=option(Count), default=4, help="how many, drawn from test")
    strips.add_argument("--seed", type=option(Seed), default=0, help="of the drawing")
    strips.add_argument(
        "--price", type=option(NonNegative), help="of one full reading; the middle of the range when left out"
    )
    strips.add_argument("--frames", type=option(Count), help="most frames looked at in each")
    strips.add_argument("--out", default="strips.png", help="png or svg")
    strips.add_argument("--trust", action="store_true", help=TRUST)

    commands.add_parser("list", help="shipped configurations, and the classes that a YAML can name")
    return parser


def split_overrides(given: list[str]) -> tuple[list[str], list[str]]:
    """Take settings such as `--agent.hidden_size 32` out; argparse would take their values for its own.

    >>> split_overrides(["train", "--chunk", "4", "mails", "--agent.scheme=[Halt]", "--seed", "1"])
    (['train', 'mails', '--seed', '1'], ['--chunk', '4', '--agent.scheme=[Halt]'])
    """
    kept: list[str] = []
    overrides: list[str] = []
    rest = iter(given)
    for each in rest:
        name, equals, _ = each.removeprefix("--").partition("=")
        if each.startswith("--") and ("." in name or name in SECTIONS):
            overrides += [each] if equals else [each, *itertools.islice(rest, 1)]
        else:
            kept.append(each)
    return kept, overrides


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns 0, 2 for a user's mistake, 130 for Ctrl-C."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    debug, command = "--debug" in given, "temporal"
    try:
        given, overrides = split_overrides([g for g in given if g != "--debug"])
        options, unknown = make_parser().parse_known_args(given)
        command = options.command
        if command not in ("train", "cost") and (unknown or overrides):
            options.parser.error(f"unrecognized arguments: {(overrides + unknown)[0]}")
        # Before torch: its threads should sleep while they wait, for a spinning one keeps decoders from their core.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        from temporal import commands
        from temporal.allocator import keep_freed_memory

        keep_freed_memory()
        commands.COMMANDS[command](options, overrides + unknown)
        sys.stdout.flush()
    except UserError as error:
        return _fail(str(error), debug)
    except KeyboardInterrupt:
        print("temporal: interrupted; what was finished is kept", file=sys.stderr)
        return 130
    except MemoryError:
        return _fail(f"{command}: memory, got too little; expected more; what was finished is kept", debug)
    except BrokenPipeError:
        # else the interpreter complains when it flushes at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except OSError as error:
        where = f"{command}: {error.filename or 'files'}"
        return _fail(
            f"{where}, got {reason(error)}; expected to read and write; what was finished is kept", debug
        )
    return 0


def _fail(message: str, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(plain(f"temporal: {message}"), file=sys.stderr)
    return 2
