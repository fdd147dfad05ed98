"""Readers: networks that consume a sequence one observation at a time."""

from temporal.readers.base import Chunk, Reader, Reads, State, Task
from temporal.readers.recurrent import RecurrentReader
from temporal.readers.transformer import TransformerReader
from temporal.readers.video import AttentiveFrameReader, FrameReader, RecurrentFrameReader

__all__ = [
    "AttentiveFrameReader",
    "Chunk",
    "FrameReader",
    "Reader",
    "Reads",
    "RecurrentFrameReader",
    "RecurrentReader",
    "State",
    "Task",
    "TransformerReader",
]
