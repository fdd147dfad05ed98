"""What holds for every test: one thread, no network, caches of its own, shapes checked."""

from __future__ import annotations

import os
import shutil
import tempfile

import pytest

# Workers of pytest-xdist inherit these, and so do programs that a test starts.
WORKER = "PYTEST_XDIST_WORKER" in os.environ
if not WORKER:
    CACHE = tempfile.mkdtemp(prefix="temporal-tests-")
    os.environ.update(
        OMP_NUM_THREADS="1",  # the workers share the cores
        HF_HUB_OFFLINE="1",
        HF_HOME=f"{CACHE}/hub",
        TEMPORAL_CACHE=f"{CACHE}/temporal",
        MPLBACKEND="agg",
    )

# Everything below must come after the environment is set, and before the first import of the package.
import torch
from jaxtyping import install_import_hook

import tests.shapes  # noqa: F401 - the hook finds it by name

torch.set_num_threads(1)
install_import_hook("temporal", "tests.shapes.check")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the caches once all workers are done."""
    if not WORKER:
        shutil.rmtree(CACHE, ignore_errors=True)
