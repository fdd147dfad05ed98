"""What a worker process does: opens files, decodes what is asked for, and answers, within limits of its own."""

from __future__ import annotations

import json
import os
import pickle
import queue
import sys
import threading
import time
from collections import OrderedDict
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Int

from temporal.data.decode import Decoded, Decoder, Video, VideoError, spread

MEMORY_BYTES = 4 << 30  # of address space that files may take in a worker, beyond what it starts with
OPEN_BYTES = 1 << 30  # that all files which are open may take, as estimated


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


class Settings(NamedTuple):
    """How a worker reads; see `Decoders`."""

    num_open: int
    decoder: Decoder
    max_pixels: int
    lenient: bool


def serve() -> None:
    """Answer requests that come in on standard input, in a process of its own, until it ends."""
    settings = Settings(*json.loads(sys.argv[1]))
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # nothing that a library prints gets among the answers
    _limit_memory()
    requests: queue.SimpleQueue[Request] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(requests,), daemon=True).start()
    videos: OrderedDict[str, Video] = OrderedDict()
    while True:
        request = requests.get()
        pickle.dump(_respond(videos, request, settings), answers, protocol=5)
        answers.flush()
        if request.last and request.path in videos:
            videos.pop(request.path).close()
        while len(videos) > settings.num_open or _is_too_much(videos):
            videos.popitem(last=False)[1].close()


def _limit_memory() -> None:
    """Have what a file makes the decoder take end in an error, where the system can: not in want of memory for all."""
    if sys.platform == "linux":
        import resource

        taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        _, most = resource.getrlimit(resource.RLIMIT_AS)
        limit = taken + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (limit if most < 0 else min(limit, most), most))


def _is_too_much(videos: OrderedDict[str, Video]) -> bool:
    """Whether files that are open may together take more than they should; one alone may."""
    return len(videos) > 1 and sum(video.estimated_bytes for video in videos.values()) > OPEN_BYTES


def _listen(requests: queue.SimpleQueue[Request]) -> None:
    """Pass requests on; end the process, even amid decoding, when who sends them has ended."""
    try:
        while True:
            requests.put(pickle.load(sys.stdin.buffer))
    finally:
        os._exit(0)


def _respond(videos: OrderedDict[str, Video], request: Request, settings: Settings) -> Decoded | VideoError:
    started = time.perf_counter()
    for _ in range(2):
        try:
            answer = _try(videos, request, settings)
        except MemoryError:  # with nothing else open it may do
            while videos:
                videos.popitem()[1].close()
            continue
        return (
            answer
            if isinstance(answer, VideoError)
            else answer._replace(took_seconds=time.perf_counter() - started)
        )
    return VideoError(f"decoding it takes more than {MEMORY_BYTES >> 20:,} MB of memory")


def _try(videos: OrderedDict[str, Video], request: Request, settings: Settings) -> Decoded | VideoError:
    video = videos.pop(request.path, None)
    try:
        video = video or Video(
            request.path, settings.decoder, max_pixels=settings.max_pixels, lenient=settings.lenient
        )
        answer = _decode(video, request)
    except Exception as error:
        if video is not None:
            video.close()
        if isinstance(error, MemoryError):
            raise
        return error if isinstance(error, VideoError) else VideoError(f"{type(error).__name__}: {error}")
    videos[request.path] = video
    return answer


def _decode(video: Video, request: Request) -> Decoded:
    span = video.timeline.span(request.start, request.end)
    wanted = spread(span, request.num_positions) if request.indices is None else request.indices
    found = video.frames(wanted, request.size)
    packets = video.timeline.packets(span) if request.packets else None
    return found._replace(probe=found.probe._replace(span=span), packets=packets)
