"""How data sets of videos lie on a disk: class folders, lists, tables with a column of videos; all read into rows."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from temporal.data.base import SPLITS, Split
from temporal.data.manifests import (
    ENDINGS,
    LISTS,
    Columns,
    Row,
    check_columns,
    is_video,
    read_list,
    split_of,
    split_of_list,
    walk,
)
from temporal.data.tables import load_rows
from temporal.data.text import SAMPLES, cache_folder
from temporal.errors import bad, reason

TABLE = ".parquet"
SAVED = ("dataset_dict.json", "state.json")  # what datasets' save_to_disk leaves


def find_rows(path: str, columns: Columns, root: str = "") -> list[Row]:
    """All rows of a data set; `split` is None where nothing says it.

    Args:
        path: a shipped sample, a folder, a list, a table or the name of a data set on the hub; see VideoSource.
        columns: names in lists and tables.
        root: folder that relative paths are under; "" for the folder of the list.

    Raises:
        UserError: nothing there, a layout that is none of these, a list that cannot be read.
    """
    root = os.path.expanduser(root)
    if root and not os.path.isdir(root):
        raise bad("data", "root", root, "a folder that exists")
    shipped = SAMPLES / path
    place = shipped if re.fullmatch(r"\w+", path) and shipped.is_dir() else Path(os.path.expanduser(path))
    if os.path.isdir(place):
        try:
            return _folder(place, columns, root)
        except OSError as error:
            raise bad("data", "path", path, f"a folder that can be read ({reason(error)})") from None
    if os.path.isfile(place):
        return _file(place, columns, root)
    if (
        place.suffix.lower() in (*LISTS, *ENDINGS, TABLE)
        or path.startswith((".", "/", "~"))
        or path.count("/") > 1
    ):
        raise bad("data", "path", path, "a file or folder that exists")
    return _tables(load_rows(path, (columns.path, columns.label)), columns, path, Path(root))


def _folder(place: Path, columns: Columns, root: str) -> list[Row]:
    if any((place / name).is_file() for name in SAVED):
        return _saved(place, columns, root)
    files = [p for p in sorted(place.iterdir()) if p.suffix.lower() in (*LISTS, TABLE) and p.is_file()]
    manifests = [p for p in files if p.stem == "manifest"]
    if manifests:
        return _file(_only(manifests, "manifests", place), columns, root)
    named = {p: found[0] for p in files if (found := split_of_list(p.stem))}
    lists: dict[Split, list[Path]] = {s: [p for p, split in named.items() if split == s] for s in SPLITS}
    return _lists(lists, columns, root, place) if lists["train"] else _class_folders(place)


def _file(file: Path, columns: Columns, root: str) -> list[Row]:
    """One list of all splits, or that of train with the others beside it: trainlist01.txt, testlist01.txt."""
    if file.suffix.lower() not in (*LISTS, TABLE):
        raise bad("data", "format of path", file.name, f"a list ending in {', '.join((*LISTS, TABLE))}")
    kind = split_of_list(file.stem)
    if kind is None or kind[0] != "train":
        return _read(file, columns, root)
    beside = [p for p in sorted(file.parent.iterdir()) if p.suffix == file.suffix]
    same = [(p, found[0]) for p in beside if (found := split_of_list(p.stem)) and found[1] == kind[1]]
    lists: dict[Split, list[Path]] = {s: [p for p, split in same if split == s] for s in SPLITS}
    return _lists(lists | {"train": [file]}, columns, root, file.parent)


def _lists(lists: dict[Split, list[Path]], columns: Columns, root: str, place: Path) -> list[Row]:
    """The list of each split; a table may come in several parts."""
    rows = []
    for split, files in lists.items():
        if any(file.suffix.lower() != TABLE for file in files):
            _only(files, f"lists of {split}", place)
        for file in files:
            rows += [row._replace(split=row.split or split) for row in _read(file, columns, root)]
    return rows


def _only(files: list[Path], what: str, place: Path) -> Path:
    if len(files) > 1:
        raise bad("data", f"{what} in {place}", ", ".join(p.name for p in files), "one; path can name it")
    return files[0]


def _read(file: Path, columns: Columns, root: str) -> list[Row]:
    under = Path(root) if root else file.parent
    if file.suffix.lower() == TABLE:
        return _tables(
            load_rows({"train": [str(file)]}, (columns.path, columns.label)), columns, str(file), under
        )
    return read_list(file, columns, under)


def _class_folders(place: Path) -> list[Row]:
    """One folder for each class, or for each split and in it one for each class."""
    folders = [p for p in sorted(place.iterdir()) if p.is_dir()]
    parts = [(p, split_of(p.name)) for p in folders]
    if not any(split == "train" for _, split in parts):
        parts = [(place, None)]
    rows = [
        Row(f"data: {video}", video, label.name, split=split)
        for part, split in parts
        if split or part == place
        for label in sorted(part.iterdir())
        if label.is_dir()
        for video in walk(str(label))
    ]
    if not rows:
        expected = (
            "a folder with one folder of videos per class, with lists named train, or with a manifest.jsonl"
        )
        raise bad("data", "path", str(place), expected)
    return rows


def _saved(place: Path, columns: Columns, root: str) -> list[Row]:
    import datasets

    try:
        loaded = datasets.load_from_disk(str(place))
    except Exception as error:  # the library raises many types
        told = " ".join(str(error).split())[:200]
        raise bad("data", "path", str(place), f"a data set that can be loaded ({told})") from None
    tables = loaded if isinstance(loaded, dict) else {"train": loaded}
    return _tables(tables, columns, str(place), Path(root) if root else place)


def _tables(tables: dict[str, Any], columns: Columns, name: str, root: Path) -> list[Row]:
    """Rows of each split of a data set; a single table does not say its split."""
    rows: list[Row] = []
    for split, table in tables.items():
        given = split_of(split) if len(tables) > 1 else None
        where = f"data: {name} {split}" if len(tables) > 1 else f"data: {name}"
        if given or len(tables) == 1:
            rows += (row._replace(split=row.split or given) for row in _table(table, columns, where, root))
    if not rows:
        raise bad("data", "splits", sorted(tables), "one named train")
    return rows


def _table(table: Any, columns: Columns, where: str, root: Path) -> Iterator[Row]:
    """Rows one by one, for they may hold whole files, which are written out; nothing is decoded."""
    import datasets

    names = columns._replace(path=_video_column(table.features, columns.path))
    check_columns(where, names, table.column_names)
    if isinstance(table.features[names.path], datasets.Video):
        table = table.cast_column(names.path, datasets.Video(decode=False))
    table = table.select_columns([name for name in names if name in table.column_names])
    classes = getattr(table.features[names.label], "names", None)
    for number in range(len(table)):
        values = table[number]
        row = Row(f"{where} row {number}", **{field: values.get(n) for field, n in names._asdict().items()})
        if classes and isinstance(row.label, int):
            row = row._replace(label=classes[row.label] if 0 <= row.label < len(classes) else None)
        yield row._replace(path=_path(row.path, root))


def _video_column(features: dict[str, Any], name: str) -> str:
    """The column named, or else the only one that holds videos."""
    videos = [
        column
        for column, kind in features.items()
        if type(kind).__name__ == "Video" or (isinstance(kind, dict) and {"bytes", "path"} == set(kind))
    ]
    return videos[0] if name not in features and name == Columns().path and len(videos) == 1 else name


def _path(value: Any, root: Path) -> Any:
    """Where a video lies; one that came as bytes is written out first."""
    name = value.get("path") if isinstance(value, dict) else value
    data = value.get("bytes") if isinstance(value, dict) else None
    if data is not None:
        return str(_keep(data, name or ""))
    return os.path.join(root, os.path.expanduser(name)) if isinstance(name, str) and name else name


def _keep(data: bytes, name: str) -> Path:
    """Write a video into the cache, once for each content."""
    ending = Path(name).suffix.lower() if is_video(name) else ".mp4"
    folder = cache_folder().parent / "video" / "files"
    file = folder / f"{sha256(data).hexdigest()[:32]}{ending}"
    if not file.is_file():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            handle, work = tempfile.mkstemp(dir=folder)
            with os.fdopen(handle, "wb") as out:
                out.write(data)
            os.replace(work, file)
        except OSError as error:
            expected = f"a folder that can be written ({reason(error)}); TEMPORAL_CACHE names another"
            raise bad("data", "cache folder", str(folder), expected) from None
    return file
