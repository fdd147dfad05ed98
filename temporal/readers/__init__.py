"""Readers: networks that consume a sequence one observation at a time."""

from temporal.readers.base import Chunk, Reader, Reads, State, Task
from temporal.readers.recurrent import RecurrentReader
from temporal.readers.transformer import TransformerReader

__all__ = ["Chunk", "Reader", "Reads", "RecurrentReader", "State", "Task", "TransformerReader"]
