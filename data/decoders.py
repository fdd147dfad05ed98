"""Worker processes that decode: one that hangs or crashes is killed and replaced, and only its file is lost."""

from __future__ import annotations

import itertools
import os
import pickle
import queue
import subprocess
import sys
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from types import TracebackType
from typing import NamedTuple, Self, cast

import numpy as np
from jaxtyping import Int

from temporal.data.decode import Decoded, Decoder, Video, VideoError, spread

__all__ = ["Decoded", "Decoders", "Request", "VideoError"]

# Neither the program's own start-up file nor torch is loaded there, so that a worker is ready in a moment.
COMMAND = "from temporal.data.decoders import serve; serve()"


class Request(NamedTuple):
    """What is wanted of one file: frames by index, or evenly spread ones, or with neither only what it holds."""

    path: str
    indices: Int[np.ndarray, " num"] | list[int] | None = None
    size: tuple[int, int] | None = None
    """Height and width, to which frames are stretched; None keeps the file's."""
    num_positions: int = 0
    """Position i of n in a span of m frames is its frame floor((i + 0.5) * m / n); n is at most m."""
    start: float | None = None
    end: float | None = None
    """Seconds between which positions are spread."""
    last: bool = False
    """Nothing more will be asked of the file, which is closed afterwards."""
    packets: bool = False
    """Say what the packets of all frames between start and end tell, too."""


class GivenUpError(VideoError):
    """A file that is not tried again."""


class Decoders:
    """A pool of worker processes. Use as a context manager, or close it; either kills them.

    A file stays open in the worker that opened it, so that its frames can be fetched one by one. After a fork, the
    child has workers of its own.

    Args:
        num_workers: processes, each with one thread that decodes.
        limit_seconds: for all that is asked of one file while it stays open; starting a worker counts too.
        num_open: files that each worker keeps open.
        decoder: see `Video`.
    """

    def __init__(
        self,
        num_workers: int | None = None,
        limit_seconds: float = 60.0,
        num_open: int = 16,
        decoder: Decoder = "pyav",
    ) -> None:
        self._num_workers, self._limit_seconds = num_workers or os.cpu_count() or 1, limit_seconds
        self._num_open, self._decoder = num_open, decoder
        self._begin()

    def _begin(self) -> None:
        self._owner = os.getpid()
        settings = self._limit_seconds, self._num_open, self._decoder
        self._workers = [_Worker(*settings) for _ in range(self._num_workers)]
        self._homes: OrderedDict[str, _Worker] = OrderedDict()  # the worker that has a file open
        self._answers: dict[int, Future[Decoded]] = {}
        self._tickets = itertools.count()

    def submit(self, request: Request) -> int:
        """Ask for something; gives a ticket for the result."""
        if self._owner != os.getpid():
            self._begin()  # in a fork, the threads that talk with the workers are missing
        worker = self._homes.pop(request.path, None) or self._least_busy()
        if not request.last:
            self._homes[request.path] = worker
        if len(self._homes) > self._num_workers * self._num_open:
            self._homes.popitem(last=False)
        ticket = next(self._tickets)
        self._answers[ticket] = worker.submit(request)
        return ticket

    def _least_busy(self) -> _Worker:
        """Where a file is opened: among idle workers in turn, for it may be asked for more while others are."""
        worker = min(self._workers, key=lambda w: (w.num_waiting, w.num_files))
        worker.num_files += 1
        return worker

    def drop(self, path: str) -> None:
        """Have a file closed, of which nothing more will be asked; does not wait for it."""
        if (worker := self._homes.pop(path, None)) is not None:
            worker.submit(Request(path, last=True))

    def result(self, ticket: int) -> Decoded:
        """Wait for what a ticket stands for, once. Raises VideoError."""
        return self._answers.pop(ticket).result()

    def map(self, requests: Iterable[Request]) -> Iterator[Decoded | VideoError]:
        """Results in the order of the requests, errors among them; a few requests are worked on ahead."""
        ahead: deque[int] = deque()
        for request in requests:
            ahead.append(self.submit(request))
            if len(ahead) > 2 * len(self._workers):
                yield self._answer(ahead.popleft())
        while ahead:
            yield self._answer(ahead.popleft())

    def _answer(self, ticket: int) -> Decoded | VideoError:
        try:
            return self.result(ticket)
        except VideoError as error:
            return error

    def close(self) -> None:
        """Kill all workers; what has not been answered never will be."""
        if self._owner == os.getpid():  # not those of the parent, after a fork
            for worker in self._workers:
                worker.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class _Worker:
    """One process, started when first needed, and the thread that talks with it."""

    def __init__(self, limit_seconds: float, num_open: int, decoder: Decoder) -> None:
        self._limit_seconds, self._num_open, self._decoder = limit_seconds, num_open, decoder
        # What the process has open, least recently used first: seconds spent on it, or why it was given up.
        self._spent: OrderedDict[str, float | str] = OrderedDict()
        self._process: subprocess.Popen[bytes] | None = None
        self._requests: queue.SimpleQueue[tuple[Request, Future[Decoded]] | None] = queue.SimpleQueue()
        self._is_closed = False
        self._lock = threading.Lock()
        self.num_waiting = self.num_files = 0
        # A daemon: a program that ends does not wait for a decoder.
        self._thread = threading.Thread(target=self._run, daemon=True, name="decoder")
        self._thread.start()

    def submit(self, request: Request) -> Future[Decoded]:
        """Put a request in the queue."""
        future: Future[Decoded] = Future()
        with self._lock:
            if self._is_closed:
                future.set_exception(VideoError("the decoders were closed"))
            else:
                self.num_waiting += 1
                self._requests.put((request, future))
        return future

    def close(self) -> None:
        """Kill the process, and with it what the thread waits for."""
        with self._lock:
            self._is_closed = True
            if self._process is not None:
                self._process.kill()
            self._requests.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (task := self._requests.get()) is not None:
            request, future = task
            try:
                future.set_result(self._answer(request))
            except Exception as error:  # whatever it is, someone waits for it
                future.set_exception(error)
            with self._lock:
                self.num_waiting -= 1
        self._discard()

    def _answer(self, request: Request) -> Decoded:
        spent = self._spent.pop(request.path, 0.0)
        if isinstance(spent, str):
            self._note(request.path, spent)
            raise GivenUpError(spent)
        started = time.monotonic() - spent
        answer = self._ask_twice(request, started + self._limit_seconds)
        if isinstance(answer, GivenUpError):
            self._note(request.path, str(answer))
        elif not request.last:
            self._note(request.path, time.monotonic() - started)
        if isinstance(answer, VideoError):
            raise answer
        return answer

    def _ask_twice(self, request: Request, deadline: float) -> Decoded | VideoError:
        """Ask again where the process ends: it may have been killed for what is no fault of the file."""
        for _ in range(2):
            try:
                return self._ask(request, deadline - time.monotonic())
            except (EOFError, OSError, pickle.UnpicklingError):
                self._discard()
            if self._is_closed:
                return VideoError("the decoders were closed")
            if time.monotonic() >= deadline:
                return GivenUpError(f"no answer within {self._limit_seconds:g} s")
        return GivenUpError("the decoder crashed, twice")

    def _note(self, path: str, spent: float | str) -> None:
        self._spent[path] = spent
        if len(self._spent) > self._num_open:
            self._spent.popitem(last=False)

    def _ask(self, request: Request, seconds: float) -> Decoded | VideoError:
        """Send and receive; when time is over the process is killed, which ends the waiting."""
        process = self._started()
        late = threading.Event()

        def give_up() -> None:
            late.set()
            process.kill()

        timer = threading.Timer(max(seconds, 0.0), give_up)
        timer.start()
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            pickle.dump(request, process.stdin)
            process.stdin.flush()
            answer: Decoded | VideoError = pickle.load(process.stdout)  # from our own process
        finally:
            timer.cancel()
        if late.is_set():  # it answered at the last moment
            self._discard()
        return answer

    def _started(self) -> subprocess.Popen[bytes]:
        """The process, which may have been killed by someone else while it had nothing to do."""
        if self._process is not None and self._process.poll() is not None:
            self._discard()
        with self._lock:
            if self._is_closed:
                raise EOFError
            if self._process is None:
                self._process = self._start()
            return self._process

    def _start(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-c", COMMAND, str(self._num_open), self._decoder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,  # decoders print what they think of a file
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
            start_new_session=True,  # ctrl-c is for the program, which then closes this
        )

    def _discard(self) -> None:
        """Make sure that the process is gone."""
        process, self._process = self._process, None
        # Reasons stay: a file that was given up is not tried again.
        self._spent = OrderedDict((path, why) for path, why in self._spent.items() if isinstance(why, str))
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with suppress(OSError):  # what was not sent yet
                    pipe.close()


def serve() -> None:
    """Answer requests that come in on standard input, in a process of its own, until it ends."""
    num_open, decoder = int(sys.argv[1]), cast(Decoder, sys.argv[2])
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing that a library prints gets among the answers
    requests: queue.SimpleQueue[Request] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    videos: OrderedDict[str, Video] = OrderedDict()
    while True:
        request = requests.get()
        pickle.dump(_respond(videos, request, decoder), answers, protocol=5)
        answers.flush()
        if request.last and request.path in videos:
            videos.pop(request.path).close()
        while len(videos) > num_open:
            videos.popitem(last=False)[1].close()


def _listen(requests: queue.SimpleQueue[Request]) -> None:
    """Pass requests on; end the process, even amid decoding, when who sends them has ended."""
    try:
        while True:
            requests.put(pickle.load(sys.stdin.buffer))
    finally:
        os._exit(0)


def _respond(videos: OrderedDict[str, Video], request: Request, decoder: Decoder) -> Decoded | VideoError:
    video, started = videos.pop(request.path, None), time.perf_counter()
    try:
        video = video or Video(request.path, decoder)
        answer = _decode(video, request)._replace(took_seconds=time.perf_counter() - started)
    except Exception as error:
        if video is not None:
            video.close()
        return error if isinstance(error, VideoError) else VideoError(f"{type(error).__name__}: {error}")
    videos[request.path] = video
    return answer


def _decode(video: Video, request: Request) -> Decoded:
    span = video.timeline.span(request.start, request.end)
    wanted = spread(span, request.num_positions) if request.indices is None else request.indices
    found = video.frames(wanted, request.size)
    packets = video.timeline.packets(span) if request.packets else None
    return found._replace(probe=found.probe._replace(span=span), packets=packets)
