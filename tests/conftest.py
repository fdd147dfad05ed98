"""What holds for every test: one thread, no network, caches of its own, shapes checked."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

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
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import install_import_hook

import tests.shapes  # noqa: F401 - the hook finds it by name
from temporal.allocator import keep_freed_memory
from tests.mails import TEXT_CONFIG, make_mails

torch.set_num_threads(1)
keep_freed_memory()
install_import_hook("temporal", "tests.shapes.check")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the caches once all workers are done."""
    if not WORKER:
        shutil.rmtree(CACHE, ignore_errors=True)


@pytest.fixture(scope="session")
def mails(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three small tables: 128, 32 and 32 mails."""
    folder = tmp_path_factory.mktemp("data") / "mails"
    folder.mkdir()
    for seed, (split, num) in enumerate({"train": 128, "validation": 32, "test": 32}.items()):
        pq.write_table(pa.table(make_mails(num, seed)), folder / f"{split}.parquet")
    return folder


@pytest.fixture(scope="session")
def text_config(mails: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The YAML that text_run was trained by."""
    file = tmp_path_factory.mktemp("config") / "tiny.yaml"
    file.write_text(TEXT_CONFIG % mails)
    return file


@pytest.fixture(scope="session")
def other_seed(text_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of another seed than text_run, trained and evaluated; tests that change it take a copy."""
    from temporal.cli import main

    folder = tmp_path_factory.mktemp("runs") / "other"
    assert main(["train", str(text_config), "--seed", "1", "--out", str(folder)]) == 0
    assert main(["evaluate", str(folder)]) == 0
    return folder


@pytest.fixture(scope="session")
def text_run(text_config: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small run on texts, trained and evaluated; tests that change it take a copy."""
    from temporal.cli import main

    folder = tmp_path_factory.mktemp("runs") / "tiny"
    assert main(["train", str(text_config), "--out", str(folder)]) == 0
    assert main(["evaluate", str(folder)]) == 0
    return folder
