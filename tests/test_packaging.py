"""The folders at the root are imported as temporal.*, in a clone, an editable install, a wheel and an sdist."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
ROOT_FOLDERS = ("agents", "data", "configs")
MACHINE_PATH = re.compile(r"(?<![\w.~-])/(?:work|root|home)/")


def run(*command: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


def packages_in(folder: str) -> set[str]:
    """Dotted names from the root; links are not followed."""
    return {".".join(p.parent.relative_to(ROOT).parts) for p in (ROOT / folder).rglob("__init__.py")}


def test_the_package_list_is_complete() -> None:
    outside = {f"temporal.{package}" for name in ROOT_FOLDERS for package in packages_in(name)}
    assert sorted(SETTINGS["packages"]) == sorted(packages_in("temporal") | outside)
    assert SETTINGS["package-dir"] == {f"temporal.{name}": name for name in ROOT_FOLDERS}


@pytest.mark.parametrize("name", ROOT_FOLDERS)
def test_links_point_to_the_root_folders(name: str) -> None:
    link = ROOT / "temporal" / name
    assert link.is_symlink()
    assert str(link.readlink()) == f"../{name}"


@pytest.mark.parametrize("name", ROOT_FOLDERS)
def test_a_root_folder_says_how_it_is_imported(name: str) -> None:
    done = run(sys.executable, "-c", f"import {name}", cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        f"ImportError: {name}: this folder is imported as temporal.{name}; "
        "install the project with `pip install -e .`"
    )


@pytest.mark.parametrize("name", ROOT_FOLDERS)
def test_the_installed_package_is_this_checkout(name: str, tmp_path: Path) -> None:
    code = f"import temporal.{name} as m; print(m.__file__)"
    done = run(sys.executable, "-c", code, cwd=tmp_path)
    assert Path(done.stdout.strip()).resolve() == ROOT / name / "__init__.py", done.stderr


@pytest.mark.parametrize(
    "module", ["temporal", "temporal.errors", "temporal.registration", "temporal.configs"]
)
def test_importing_the_package_imports_nothing_heavy(module: str) -> None:
    heavy = {"torch", "numpy", "datasets", "transformers", "matplotlib"}
    code = f"import sys, {module}; print(sorted({heavy!r} & set(sys.modules)))"
    done = run(sys.executable, "-c", code, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stderr


def text_files() -> list[Path]:
    """What git knows of, or would with `git add .`; links are left out, for what they lead to is listed itself."""
    listed = run("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", cwd=ROOT)
    if listed.returncode:
        pytest.skip("needs a git checkout")
    paths = [ROOT / name for name in listed.stdout.split("\0") if name]
    return [p for p in paths if p.is_file() and not p.is_symlink() and b"\0" not in p.read_bytes()[:8192]]


def machine_paths(text: str) -> list[str]:
    return [line for line in text.splitlines() if MACHINE_PATH.search(line)]


def test_no_file_names_a_path_of_one_machine() -> None:
    found = {str(p.relative_to(ROOT)): machine_paths(p.read_text(errors="replace")) for p in text_files()}
    assert "pyproject.toml" in found
    assert {name: lines for name, lines in found.items() if lines} == {}


@pytest.mark.parametrize("top", ["work", "root", "home"])
def test_a_path_of_one_machine_is_found(top: str) -> None:
    assert machine_paths(f"open('/{top}/x')\nhttps://example.org/{top}/x") == [f"open('/{top}/x')"]


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources alone, so that builds leave nothing in the checkout and stale ones have no say."""
    folder = tmp_path_factory.mktemp("clone")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    for name in ("temporal", *ROOT_FOLDERS):
        shutil.copytree(
            ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__")
        )
    return folder


def build_wheel(source: Path, target: Path) -> Path:
    pip = (sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(target))
    done = run(*pip, str(source), cwd=target)
    assert done.returncode == 0, done.stderr
    (wheel,) = target.glob("*.whl")
    return wheel


def files_of(folder: Path) -> set[str]:
    """Modules, configs and samples under their full names, as a wheel should hold them."""
    paths = [p for name in ("temporal", *ROOT_FOLDERS) for p in (folder / name).rglob("*") if p.is_file()]
    kept = [p.relative_to(folder) for p in paths if p.suffix in {".py", ".parquet", ".yaml", ".typed"}]
    return {str(p if p.parts[0] == "temporal" else "temporal" / p) for p in kept}


@pytest.fixture(scope="module")
def wheel(clone: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(clone, tmp_path_factory.mktemp("wheel"))


def test_a_wheel_holds_everything_under_temporal(clone: Path, wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    assert "temporal/agents/base.py" in names
    assert "temporal/data/samples/spam_assassin/train.parquet" in names
    assert files_of(clone) - names == set()
    assert {n.split("/")[0] for n in names} == {"temporal", wheel.name.rsplit("-", 3)[0] + ".dist-info"}


def test_an_installed_wheel_works_from_anywhere(wheel: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    pip = (sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(wheel))
    assert run(*pip, cwd=tmp_path).returncode == 0
    code = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "import temporal.agents as agents, temporal.configs as configs\n"
        "from temporal.data.text import SAMPLES\n"
        "print(agents.__file__, configs.__file__, *SAMPLES.glob('*/*.parquet'), sep='\\n')"
    )
    done = run(sys.executable, "-c", code, cwd=tmp_path)
    places = [Path(line).relative_to(site) for line in done.stdout.split()]
    assert len(places) == 5, done.stderr
    assert places[0] == Path("temporal/agents/__init__.py")


@pytest.mark.slow
def test_an_sdist_builds_the_same_wheel(clone: Path, wheel: Path, tmp_path: Path) -> None:
    code = "import setuptools.build_meta as backend, sys; backend.build_sdist(sys.argv[1])"
    done = run(sys.executable, "-c", code, str(tmp_path), cwd=clone)
    assert done.returncode == 0, done.stderr
    (archive,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    again = build_wheel(tmp_path / archive.name.removesuffix(".tar.gz"), tmp_path)
    assert sorted(zipfile.ZipFile(again).namelist()) == sorted(zipfile.ZipFile(wheel).namelist())
