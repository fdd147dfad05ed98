"""The command line: train, evaluate, plot, score, cost, list. Results on stdout, progress on stderr."""

from __future__ import annotations

import argparse
import sys
import traceback
from collections.abc import Sequence

from temporal.errors import UserError

EPILOG = "`temporal COMMAND --help` says more. Mistakes are told in one line (exit 2); --debug shows where they arose."


def make_parser() -> argparse.ArgumentParser:
    """The commands and their options; torch is not needed for it, so that --help is instant."""
    parser = argparse.ArgumentParser(prog="temporal", description="Agents that read sparingly.", epilog=EPILOG)
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    train = commands.add_parser(
        "train",
        help="train a reader and an agent",
        description="Train by a YAML. Any setting can be overridden: --agent.hidden_size 32, --training.updates 0.",
    )
    train.add_argument("config", help="a YAML file, or the name of a shipped one (`temporal list`)")
    train.add_argument("--seed", type=int, help="of everything random")
    train.add_argument("--out", help="run folder; runs/CONFIG-seedN when left out")
    train.add_argument("--resume", action="store_true", help="go on with the run in the folder, if there is one")
    train.add_argument("--reader-from", metavar="RUN", help="take the reader of a finished run and do not warm it up")
    train.add_argument("--tensorboard", action="store_true", help="write event files beside metrics.jsonl")
    train.add_argument("--print-config", action="store_true", help="print the resolved configuration and stop")

    evaluate = commands.add_parser("evaluate", help="trace agent and controls, with intervals")
    evaluate.add_argument("runs", nargs="+", metavar="RUN", help="run folders; several seeds of one configuration")
    evaluate.add_argument("--again", action="store_true", help="trace anew what was traced before")
    evaluate.add_argument("--trust", action="store_true", help="build classes from outside temporal.*: runs their code")

    plot = commands.add_parser("plot", help="draw accuracy against FLOPs of evaluated runs")
    plot.add_argument("runs", nargs="+", metavar="RUN", help="evaluated run folders; several seeds make bands")
    plot.add_argument("--out", default="curve.png", help="png or svg")
    plot.add_argument("--title", help="above the picture")
    plot.add_argument("--agents", nargs="*", help="draw these only")

    score = commands.add_parser("score", help="classify texts within a budget")
    score.add_argument("run", help="run folder")
    score.add_argument("inputs", nargs="+", metavar="INPUT", help="txt, parquet, csv, jsonl files or folders of them")
    budget = score.add_mutually_exclusive_group()
    budget.add_argument("--tokens", type=float, help="most tokens read of each text")
    budget.add_argument("--flops", type=float, help="most FLOPs spent on each text")
    score.add_argument("--price", type=float, help="of one full reading; the lowest trained on when left out")
    score.add_argument("--out", default="scores.parquet", help="parquet file of results")
    score.add_argument("--text-column", default="text", help="of tables")
    score.add_argument("--trust", action="store_true", help="build classes from outside temporal.*: runs their code")

    cost = commands.add_parser("cost", help="the price list of a configuration, before any training")
    cost.add_argument("config", help="a YAML file, or the name of a shipped one")

    commands.add_parser("list", help="shipped configurations, and the classes that a YAML can name")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns 0, 2 for a user's mistake, 130 for Ctrl-C."""
    parser = make_parser()
    given = list(sys.argv[1:] if arguments is None else arguments)
    options, overrides = parser.parse_known_args(given)
    if overrides and options.command not in ("train", "cost"):
        parser.error(f"unrecognized arguments: {' '.join(overrides)}")
    try:
        from temporal import commands

        commands.COMMANDS[options.command](options, overrides)
    except UserError as error:
        if options.debug:
            traceback.print_exc()
        print(f"temporal: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("temporal: interrupted; what was finished is kept", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return 0
    except OSError as error:
        if options.debug:
            traceback.print_exc()
        where = f" {error.filename}" if error.filename else ""
        print(f"temporal: {error.strerror or error}{where}; what was finished is kept", file=sys.stderr)
        return 2
    return 0
