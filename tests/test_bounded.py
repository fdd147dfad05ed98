"""Files that strangers made are read within bounds, and what they hold is plain values."""

from __future__ import annotations

import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml

from temporal.arrays import read_arrays
from temporal.bounded import check_entries, check_file, load_json, load_yaml, read_text
from temporal.errors import UserError, plain


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("9" * 6000, "a number of 6000 digits"),
        ("NaN", "NaN is no number"),
        ("1e999", "1e999 is no finite number"),
        ('{"a": 1, "a": 2}', "a key comes twice"),
        ('["\\ud800"]', "half a character"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_json_out_of_bounds(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=f"^{told}$"):
        load_json(text)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a: !!python/name:os.system", "an anchor, alias or tag in line 1"),
        ("a: &x 1", "an anchor, alias or tag in line 1"),
        ("a: 1\nb: *a", "an anchor, alias or tag in line 2"),
        ("a: " + "[" * 100_000, "nested too deeply"),
        ("\n".join(f"k{i}: 1" for i in range(20_000)), "too many values"),
        ("a: " + "9" * 6000, "a number of 6000 digits"),
        ("a: .nan", ".nan is no number"),
        ("a: -.inf", "-.inf is no number"),
        ("a: 1\na: 2", "a key comes twice"),
        ("1: a", "a key that is no text"),
        ('a: "\\ud800"', "half a character"),
        ("a: 1\n---\nb: 2", "more than one value"),
        ("", "nothing"),
        (
            "a: [",
            "did not find expected node content|expected the node content, but found '<stream end>', line 1",
        ),
    ],
)
def test_yaml_out_of_bounds(text: str, told: str) -> None:
    with pytest.raises(ValueError, match=f"^({told})$"):
        load_yaml(text)


def test_yaml_of_plain_values_is_what_was_written() -> None:
    value = {
        "texts": ["", "null", "true", "1", "1.5", "~", "a: b", "[x]", "é", "1e5", "0x1f", "12:30", "2020-01-01", "<<"],
        "numbers": [0, -7, 10**18, 1.5, -1e-30, 1e20, 3.0],
        "words": [True, False, None],
        "nested": {"a": [{"b": []}, {}]},
    }  # fmt: skip
    found = load_yaml(yaml.safe_dump(value, allow_unicode=True))
    assert found == value
    assert [type(n) for n in found["numbers"]] == [type(n) for n in value["numbers"]]


def test_only_regular_files_within_the_folder_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (tmp_path / "outside").touch()
    os.mkfifo(folder / "pipe")
    (folder / "out").symlink_to(tmp_path / "outside")
    (folder / "zero").symlink_to("/dev/zero")
    (folder / "large").write_text("x" * 11)
    why = {
        "pipe": "a pipe is none", "out": "a link that leads elsewhere", "zero": "a link that leads elsewhere",
        "large": "0 MiB; at most 9.53674e-06", "none": "No such file or directory", ".": "a folder is none",
    }  # fmt: skip
    for name, reason in why.items():
        with pytest.raises(UserError) as error:
            read_text(folder / name, 10)
        assert str(error.value) == f"run: file, got '{folder / name}'; expected a file of a run ({reason})"
    (folder / "in").symlink_to("large")
    assert read_text(folder / "in", 11) == "x" * 11
    assert check_file(folder / "large", 11) == 11


@pytest.mark.parametrize("name", ["pipe", "link", "deep/link", "loop"])
def test_a_folder_is_refused_for_what_is_no_file(name: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "file").touch()
    (folder / "inside").symlink_to("deep/file")
    check_entries(folder)
    if name == "pipe":
        os.mkfifo(folder / name)
    else:
        (folder / name).symlink_to(name if name == "loop" else "/etc/hostname")
    with pytest.raises(UserError) as error:
        check_entries(folder)
    why = "a pipe is none" if name == "pipe" else "a link that leads elsewhere"
    assert str(error.value) == f"run: file, got '{folder / name}'; expected a file of a run ({why})"


def header(shape: str, kind: str = "<f8") -> bytes:
    text = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text


def packed(content: bytes, times: int = 1) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for index in range(times):
            archive.writestr(f"{index}.npy", content)
    return held.getvalue()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (packed(header("(1000000000000,)")), "an array of another size than its header says"),
        (packed(header("(-1, -8)") + bytes(64)), "an array of another size than its header says"),
        (packed(header("(1,)", "|O") + bytes(8)), "an array of object"),
        (packed(b"", 30_000), "too many arrays"),
        (packed(bytes(1 << 20), 7), "more than 6 MiB"),
        (b"x" * 100, "no end of a zip"),
        (b"", "no end of a zip"),
    ],
)
def test_arrays_out_of_bounds(content: bytes, told: str, tmp_path: Path) -> None:
    (tmp_path / "a.npz").write_bytes(content)
    with pytest.raises(UserError, match=f"^outcomes: file, got '.*'; expected a file of outcomes .*{told}"):
        read_arrays(tmp_path / "a.npz", "outcomes", 6 << 20)


def test_arrays_are_what_numpy_wrote(tmp_path: Path) -> None:
    arrays = {"a/b": np.arange(6.0).reshape(2, 3), "c": np.array([True, False])}
    np.savez(tmp_path / "a.npz", **arrays)
    found = read_arrays(tmp_path / "a.npz", "outcomes")
    assert found.keys() == arrays.keys()
    assert all((found[name] == arrays[name]).all() and found[name].flags.writeable for name in arrays)


def test_what_a_terminal_would_obey_is_spelled_out() -> None:
    assert plain("a\x1b[2J\x07\u202eb\ud800é\n") == r"a\x1b[2J\x07\u202eb\ud800é\n"
    assert str(UserError("x\ny")) == r"x\ny"
    assert len(plain("x" * 10_000)) < 2000


def test_tables_take_names_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    from rich.table import Table

    from temporal.display import results

    table = Table("[link=http://x]a[/link]", title="\x1b[2J[red]t")
    table.add_row("\x1b]0;x\x07[bold]b :smile:")
    results().print(table)
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    for text in ("[link=http://x]a[/link]", r"\x1b[2J[red]t", r"\x1b]0;x\x07[bold]b :smile:"):
        assert text in shown
