"""Makes hostile run folders out of a good one and has the command line open them: nothing in them may be executed.

Each case is a copy of a small run in which something was replaced, as hostile_configs.py and hostile_files.py say. A
command runs on it in a process of its own, with little memory and 10 s of a processor. An audit hook notes what is
executed, imported, opened and connected to; a payload would also leave a file. Every fourth case is tried on a second
command as well.

A case is well met where the command ends with 2 and one line, or does its work (what was done may be harmless). It is a
violation if anything is executed, imported from elsewhere, opened outside the folder or connected to, if it hangs, ends
otherwise, takes more than 1 GiB beyond the good run, or writes an escape sequence to the terminal.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import random
import resource
import shutil
import signal
import socket
import sys
import sysconfig
import tempfile
import time
import traceback
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.hostile_configs import Case
from benchmarks.hostile_files import cases

SECONDS, ROOM = 10.0, 1 << 30
EVENTS = (
    "os.system",
    "os.exec",
    "os.posix_spawn",
    "subprocess.Popen",
    "pty.spawn",
    "ctypes.dlopen",
    "os.fork",
)
HARMLESS = (None, "git")  # the C library, to keep freed memory; the commit that about.json tells
CONNECTS = ("socket.connect", "socket.getaddrinfo", "socket.bind", "socket.sendto", "socket.gethostbyname")
WRITES = (
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "os.chmod",
    "os.link",
    "os.symlink",
    "os.truncate",
)
OTHERS = ("evaluate", "strips", "reader-from", "resume", "plot")
CONFIG = """
data: {{class_path: temporal.data.text.TextSource, init_args: {{path: {0}, max_tokens: 40}}}}
reader:
  class_path: temporal.readers.RecurrentReader
  init_args: {{embedding_size: 8, hidden_size: 8, skim_size: 4}}
agent:
  class_path: temporal.agents.policy.PolicyAgent
  init_args:
    hidden_size: 8
    scheme: [{{class_path: temporal.decisions.Halt}}, {{class_path: temporal.decisions.Sift}}]
training:
  class_path: temporal.agents.train.Training
  init_args:
    warmup: {{class_path: temporal.agents.warmup.Warmup, init_args: {{epochs: 2, learning_rate: 0.05}}}}
    stopping: {{class_path: temporal.agents.stopping.StoppingFit, init_args: {{updates: 3, batch_size: 16}}}}
    updates: 1
    episodes: 8
evaluation: {{class_path: temporal.agents.trials.Evaluation, init_args: {{num_settings: 2, controls: false}}}}
chunk: 4
device: cpu
"""


class Seen(NamedTuple):
    """What one command did with one folder."""

    verdict: str
    told: str
    executed: list[str]
    opened: list[str]
    connected: list[str]
    memory: int


class Place(NamedTuple):
    """Where everything lies: the good run, what it was trained by, and room for copies."""

    root: Path
    run: Path

    @property
    def canary(self) -> Path:
        """A file that only a payload writes."""
        return self.root / "canary" / "executed"


def make_place(root: Path, run: Path | None) -> Place:
    """Texts, a configuration, and a run trained and evaluated on them unless one is given."""
    from temporal.cli import main

    (root / "canary").mkdir()
    (root / "texts").mkdir()
    rng = random.Random(0)
    for split, num in {"train": 64, "validation": 16, "test": 16}.items():
        rows = []
        for index in range(num):
            words = [f"w{rng.randrange(20)}" for _ in range(rng.randrange(4, 30))] + [
                "spam" if index % 2 else "ham"
            ]
            rows.append({"text": " ".join(words), "label": str(index % 2)})
        (root / "texts" / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "config.yaml").write_text(CONFIG.format(root / "texts"))
    (root / "a.txt").write_text(
        "w1 w2 spam aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx"
    )
    place = Place(root, run or root / "good")
    if run is None and (
        main(["train", str(root / "config.yaml"), "--out", str(place.run)])
        or main(["evaluate", str(place.run)])
    ):
        raise SystemExit("the good run could not be made")
    return place


def arguments(command: str, folder: Path, place: Place) -> list[str]:
    """What is typed."""
    work = folder.parent
    config = str(place.root / "config.yaml")
    return {
        "score": ["score", str(folder), str(place.root / "a.txt"), "--out", str(work / "o.parquet")],
        "evaluate": ["evaluate", str(folder), "--again"],
        "report": ["evaluate", str(folder)],
        "strips": ["strips", str(folder), "--out", str(work / "s.png")],
        "plot": ["plot", str(folder), "--out", str(work / "p.png")],
        "reader-from": ["train", config, "--out", str(work / "new"), "--reader-from", str(folder)],
        "resume": ["train", config, "--out", str(folder), "--resume"],
    }[command]


@cache
def known_modules() -> set[str]:
    """Top names of the modules that may be imported: of the library, of installed packages, and the project's."""
    loaded = (name.partition(".")[0] for name in sys.modules)
    return {*sys.stdlib_module_names, *packages_distributions(), *loaded} - {
        "antigravity",
        "this",
        "canary_module",
    }


class Watch:
    """An audit hook that notes what should not happen."""

    def __init__(self, folder: Path, place: Place) -> None:
        self.executed: list[str] = []
        self.opened: list[str] = []
        self.connected: list[str] = []
        self._canary = str(place.canary)
        ours = (
            folder.parent,
            place.root / "texts",
            place.root / "cache",
            place.root / "a.txt",
            place.root / "config.yaml",
        )
        home, project = os.path.expanduser("~"), str(Path(__file__).parents[1])
        system = (
            "/proc/self/", "/proc/cpuinfo", "/proc/meminfo", "/sys/", "/dev/null", "/dev/urandom", "/usr/share/",
            "/etc/mime.types", sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), sys.prefix,
            sys.base_prefix, project, f"{home}/.config/matplotlib", f"{home}/.cache/matplotlib",
        )  # fmt: skip
        self._allowed = tuple(os.path.realpath(each) for each in (*map(str, ours), *system))
        self._modules = known_modules()

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        """Note one event."""
        if event in EVENTS and args[0] not in HARMLESS:
            self.executed.append(f"{event} {str(args)[:200]}")
        elif event in ("exec", "compile") and self._canary in str(args[0])[:4000]:
            self.executed.append(event)
        elif event == "import" and args[0].partition(".")[0] not in self._modules:
            self.executed.append(f"import {args[0]}")
        elif event in CONNECTS:
            self.connected.append(f"{event} {str(args[1:])[:100]}")
        elif event in ("open", *WRITES) and isinstance(args[0], (str, bytes)):
            path = os.path.realpath(os.path.join(os.getcwd(), os.fsdecode(args[0])))
            if not path.startswith(self._allowed):
                self.opened.append(f"{event} {path}")


def child(command: str, folder: Path, place: Place, written: int) -> None:
    """Run one command in this process, watched, and report through a pipe."""
    from temporal.cli import main

    watch = Watch(folder, place)
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + 4 * ROOM, size + 4 * ROOM))
    told = (folder.parent / "told").open("w+b")
    os.dup2(told.fileno(), 1)
    os.dup2(told.fileno(), 2)
    sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False, buffering=1)
    sys.addaudithook(watch)
    try:
        code = misbehave(place) if command == "misbehave" else main(arguments(command, folder, place))
    except BaseException:
        traceback.print_exc()
        code = 99
    sys.stdout.flush()
    sys.stderr.flush()
    with os.fdopen(written, "w") as pipe:
        json.dump([code, watch.executed[:5], watch.opened[:5], watch.connected[:5]], pipe)
    os._exit(0)


def misbehave(place: Place) -> int:
    """Do once what no folder may bring about, so that the watch is seen to notice it."""
    os.system(f"touch {place.canary}")
    __import__("canary_module")
    exec(f"str({str(place.canary)!r})")
    Path("/etc/passwd").read_bytes()
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as made:
        made.connect(str(place.root / "nobody"))
    print("\x1b[2J")
    return 0


def attempt(case: Case, command: str, place: Place) -> Seen:
    """Have a command open a hostile copy of the good run."""
    work = place.root / "work"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    shutil.copytree(place.run, work / "run")
    case.make(work / "run")
    place.canary.unlink(missing_ok=True)
    before = {path: path.stat().st_mtime_ns for path in place.canary.parent.iterdir()}
    read, written = os.pipe()
    if not (pid := os.fork()):
        try:
            os.close(read)
            child(command, work / "run", place, written)
        finally:
            os._exit(98)
    os.close(written)
    hung, memory = wait(pid)
    with os.fdopen(read) as pipe:
        code, executed, opened, connected = json.loads(pipe.read() or "[98, [], [], []]")
    after = {path: path.stat().st_mtime_ns for path in place.canary.parent.iterdir()}
    executed += [f"{path} was written" for path in after if before.get(path) != after[path]]
    told = (work / "told").read_bytes().decode(errors="replace") if (work / "told").exists() else ""
    verdict = "hung" if hung else judge(code, told)
    return Seen(verdict, told, executed, opened, connected, memory)


def wait(pid: int) -> tuple[bool, int]:
    """Whether a process had to be killed, and the most memory that it held, in bytes."""
    until = time.monotonic() + SECONDS * 3
    hung = False
    while True:
        done, _, usage = os.wait4(pid, os.WNOHANG)
        if done:
            return hung or usage.ru_utime + usage.ru_stime > SECONDS, usage.ru_maxrss * 1024
        # a busy machine must not make a hang of what takes little time of a processor
        if time.monotonic() > until:
            hung, until = True, float("inf")
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def judge(code: int, told: str) -> str:
    """How a command ended: loaded, refused in one line, or a failure."""
    lines = told.splitlines()
    if any(not (c.isprintable() or c == "\n") for c in told):
        return "escape"
    if code == 0:
        return "loaded"
    complaints = [line for line in lines if line.startswith("temporal: ")]
    clean = "Traceback" not in told and len(complaints) == 1 and lines[-1] == complaints[0]
    return "refused" if code == 2 and clean else "traceback"


def attempts(found: list[Case]) -> Iterator[tuple[Case, str]]:
    """Every case with its commands; every fourth with one more, in turns."""
    for index, case in enumerate(found):
        yield from ((case, command) for command in case.commands)
        if index % 4 == 0 and (other := OTHERS[index // 4 % len(OTHERS)]) not in case.commands:
            yield case, other


class Counts:
    """What became of the cases of one kind."""

    def __init__(self) -> None:
        self.cases: set[str] = set()
        self.tries = self.refused = self.loaded = self.executions = self.outside = self.sockets = 0
        self.hangs = self.tracebacks = self.escapes = self.peak = 0

    def add(self, case: Case, seen: Seen) -> bool:
        """Count one attempt; returns whether it was well met."""
        self.cases.add(case.name)
        self.tries += 1
        self.refused += seen.verdict == "refused"
        self.loaded += seen.verdict == "loaded"
        self.hangs += seen.verdict == "hung"
        self.tracebacks += seen.verdict == "traceback"
        self.escapes += seen.verdict == "escape"
        self.executions += len(seen.executed)
        self.outside += len(seen.opened)
        self.sockets += len(seen.connected)
        self.peak = max(self.peak, seen.memory)
        return seen.verdict in ("refused", "loaded") and not (seen.executed or seen.opened or seen.connected)


def prepare() -> None:
    """Import what the commands import, so that each process starts with it."""
    import accelerate
    import datasets
    import matplotlib.backends.backend_agg  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import safetensors.torch  # noqa: F401

    import temporal.commands  # noqa: F401

    known_modules()
    gc.freeze()  # what is collected in a child would be copied
    accelerate.PartialState()
    datasets.disable_progress_bars()


def main() -> None:
    """Print the table; exit with 1 if anything is wrong."""
    from benchmarks.timing import Report, add_json

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=Path, help="a good run on texts; a small one is trained when left out")
    parser.add_argument("--kind", nargs="+", help="only the cases of these kinds")
    parser.add_argument("--first", type=int, default=0, help="the case to begin with; default 0")
    parser.add_argument("--every", type=int, default=1, help="only each so manieth case; default 1")
    add_json(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hostile-") as scratch:
        root = Path(os.path.realpath(scratch))
        os.environ.update(
            TEMPORAL_CACHE=str(root / "cache"), HF_HOME=str(root / "cache" / "hub"), TOKENIZERS_PARALLELISM="false",
            MPLCONFIGDIR=str(root / "cache"), OMP_NUM_THREADS="1",
        )  # fmt: skip
        place = make_place(root, options.run)
        prepare()
        sys.path.insert(0, str(place.canary.parent))
        (place.canary.parent / "canary_module.py").write_text(
            f"open({str(place.canary)!r}, 'w').close()\nclass Canary: ...\n"
        )
        found = [case for case in cases(place.canary) if case.kind in (options.kind or case.kind)]
        found = found[options.first :: options.every]
        good = attempt(Case("good", "good", lambda folder: None), "score", place)
        if good.verdict != "loaded":
            raise SystemExit(f"the good run is not scored:\n{good.told}")
        shown = attempt(Case("bad", "bad", lambda folder: None), "misbehave", place)
        if not (len(shown.executed) >= 4 and shown.opened and shown.connected and shown.verdict == "escape"):
            raise SystemExit(f"what should not happen is not noticed: {shown}")
        counts: dict[str, Counts] = {}
        wrong = []
        for index, (case, command) in enumerate(attempts(found)):
            if index % 100 == 0:
                print(f"{index} tries, {len(wrong)} wrong", file=sys.stderr, flush=True)
            seen = attempt(case, command, place)
            well = counts.setdefault(case.kind, Counts()).add(case, seen) and seen.memory < good.memory + ROOM
            if not well:
                wrong.append(f"{case.kind}, {case.name!r}, {command}: {seen._replace(told=seen.told[-400:])}")
                print(wrong[-1], file=sys.stderr, flush=True)
        report = Report(f"{len(found)} hostile run folders", options.json)
        for kind, each in counts.items():
            row = vars(each) | {
                "cases": len(each.cases),
                "peak": f"{max(each.peak - good.memory, 0) >> 20} MiB",
            }
            report.add(kind=kind, **row)
        report.show()
    print(f"{len(wrong)} wrong")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
