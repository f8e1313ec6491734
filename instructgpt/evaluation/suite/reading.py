"""Official files of data sets: find them in the user's folders, read them row by row, name every fault."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping
from fnmatch import fnmatch
from importlib import import_module
from pathlib import Path
from typing import Any

from instructgpt.data.jsonl import json_type, read_jsonl, read_text
from instructgpt.errors import ConfigError, DataError
from instructgpt.evaluation.suite.task import Task

HUB = "hub"
"""What `--data` says instead of a folder to fetch official files from the Hugging Face Hub."""
_LARGEST_FIELD = 1 << 24  # characters of one field of a CSV file


class FilesMissing(ConfigError):
    """The files of a task are in none of the folders named.

    Attributes:
        task: its name.
        patterns: what its files may be called, best first.
        looked: the folders, for people.
    """

    def __init__(self, task: Task, looked: str, fetchable: bool) -> None:
        self.task, self.patterns, self.looked = task.name, task.files, looked
        cure = f"put the data set's own file there, or name it: --data {task.name}=FILE"
        if fetchable:
            cure += "; or let it be fetched: --data hub"
        names = " or ".join(task.files)
        super().__init__(f"{task.name} needs {names}, which is not found in {looked}", "--data", cure)


def find(data: str, task: Task) -> list[Path]:
    """The files of a task.

    Args:
        data: folders with commas between; `NAME=PATH` names the file (or folder) of one task; `hub` fetches
            what is not found.

    Raises:
        FilesMissing: nothing was named, or the task's files are in none of the folders.
        DataError: a named path is not there.
    """
    own, shared = _places(data, task)
    for path in own or shared:
        if not path.exists():
            raise DataError("there is no such file or folder", str(path), "look at --data")
        if path.is_file() and own:
            return [path]
        if found := _in_folder(path, task.files):
            return found
    if _wants_hub(data) and task.hub:
        return [_fetch(place) for place in task.hub]
    looked = ", ".join(map(str, own or shared)) or "nowhere: no folder was given"
    raise FilesMissing(task, looked, fetchable=bool(task.hub) and not _wants_hub(data))


def find_shots(data: str, task: Task) -> list[Path]:
    """The files that solved examples come from; none where they come from the task's other items, because
    it has no such files or they lie in none of the folders."""
    own, shared = _places(data, task)
    for path in own or shared:
        if task.shot_files and (found := _in_folder(path, task.shot_files)):
            return found
    return []


def _places(data: str, task: Task) -> tuple[list[Path], list[Path]]:
    """What `--data` names for this task alone, and what it names for all."""
    places = [place.strip() for place in data.split(",") if place.strip()]
    own = [Path(place.partition("=")[2]) for place in places if place.partition("=")[0] == task.name]
    return own, [Path(place) for place in places if "=" not in place and place != HUB]


def _wants_hub(data: str) -> bool:
    return HUB in [place.strip() for place in data.split(",")]


def _in_folder(folder: Path, patterns: tuple[str, ...]) -> list[Path]:
    """Files of the best pattern that some file matches, in the folder or one or two levels below it."""
    if folder.is_file():
        return []
    files = sorted(path for depth in ("*", "*/*", "*/*/*") for path in folder.glob(depth) if path.is_file())
    for pattern in patterns:
        wanted = [path for path in files if _matches(path.resolve(), pattern)]
        if wanted:
            highest = min(len(path.parts) for path in wanted)
            return [path for path in wanted if len(path.parts) == highest]
    return []


def _matches(path: Path, pattern: str) -> bool:
    """Whether the path's end is what the pattern says, packed or not."""
    depth = pattern.count("/") + 1
    tail = "/".join(path.parts[-depth:])
    return fnmatch(tail, pattern) or fnmatch(tail, pattern + ".gz")


def _fetch(place: str) -> Path:
    """A file of a data set on the Hub, `owner/name:path`, from the Hub's cache or the network."""
    from huggingface_hub import hf_hub_download

    repository, _, name = place.partition(":")
    try:
        return Path(hf_hub_download(repository, name, repo_type="dataset"))
    except Exception as error:  # the library has several trees of exceptions
        reason = " ".join(str(error).split())[:300]
        cure = "look at the network, or download the file yourself and name its folder with --data"
        raise DataError(
            f"the Hub does not give {name} of {repository}: {reason}", "--data hub", cure
        ) from error


def rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Records of a file, each with its place as `file:line` (or `file, record n`).

    .jsonl, .json (a list, or an object with a list under `data`), .csv and .tsv (with a header), all also
    packed as .gz, and .parquet (needs pyarrow).

    Raises:
        DataError: it can't be read as what its name says, or holds nothing.
    """
    name = path.name.removesuffix(".gz")
    kind = name.rpartition(".")[2].lower()
    if kind == "jsonl":
        yield from read_jsonl(path, '{"...": "..."}')
    elif kind in ("csv", "tsv"):
        yield from _table(path, "\t" if kind == "tsv" else ",")
    elif kind == "json":
        yield from _listed(path)
    elif kind == "parquet":
        yield from _parquet(path)
    else:
        cure = "give a file that ends in .jsonl, .json, .csv, .tsv or .parquet (the first four also with .gz)"
        raise DataError("the file's name does not say how to read it", str(path), cure)


def document(path: Path) -> Any:
    """A whole JSON file, such as SQuAD's.

    Raises:
        DataError: it can't be read, or is not JSON.
    """
    try:
        return json.loads(read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        place = f"{path}:{error.lineno}" if isinstance(error, json.JSONDecodeError) else str(path)
        raise DataError(f"this is not JSON: {error}", place, "copy or download the file again") from error


def lines(path: Path) -> list[str]:
    """The lines of a text file, without their ends.

    Raises:
        DataError: it can't be read, is not UTF-8, or holds nothing.
    """
    return read_text(path).splitlines()


def _listed(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    found = document(path)
    if isinstance(found, dict) and isinstance(found.get("data"), list):
        found = found["data"]
    if not isinstance(found, list):
        cure = "give the data set's own file"
        raise DataError(f"the file holds {json_type(found)}, not a list of records", str(path), cure)
    for number, row in enumerate(found):
        if not isinstance(row, dict):
            raise DataError(f"a record is {json_type(row)}, not an object", f"{path}, record {number}")
        yield f"{path}, record {number}", row


def _table(path: Path, separator: str) -> Iterator[tuple[str, dict[str, Any]]]:
    before = csv.field_size_limit(_LARGEST_FIELD)
    content = io.StringIO(read_text(path), newline="")
    try:
        if separator == "\t":  # a quotation mark is a letter like others
            reader = csv.reader(content, delimiter=separator, quoting=csv.QUOTE_NONE)
        else:
            reader = csv.reader(content, delimiter=separator)
        header = next(reader, [])
        for cells in reader:
            if not cells:
                continue
            place = f"{path}:{reader.line_num}"
            if len(cells) != len(header):
                what = f"the row has {len(cells)} fields, the header {len(header)}"
                raise DataError(what, place, "look at the quotation marks of this row")
            yield place, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise DataError(f"the table can't be read: {error}", str(path), "download it again") from error
    finally:
        csv.field_size_limit(before)


def _parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        parquet = import_module("pyarrow.parquet")
    except ImportError as error:
        cure = "pip install pyarrow, or give the data set's JSON or CSV file"
        raise ConfigError("reading .parquet needs pyarrow", str(path), cure) from error
    try:
        table = parquet.read_table(path)
    except Exception as error:  # the library has its own tree of exceptions
        raise DataError(f"the table can't be read: {error}", str(path), "download it again") from error
    for number, row in enumerate(table.to_pylist()):
        yield f"{path}, record {number}", row


def text_of(row: Mapping[str, Any], key: str, where: str) -> str:
    """The text under `key`.

    Raises:
        DataError: there is none, or it is no text.
    """
    value = row.get(key)
    if not isinstance(value, str):
        said = f"{key!r} is missing" if key not in row else f"{key!r} is {json_type(value)}, not a text"
        raise DataError(said, where, f"the data set's own file has a text under {key!r} in every record")
    return value


def texts_of(row: Mapping[str, Any], key: str, where: str) -> list[str]:
    """The texts in the list under `key`, at least one.

    Raises:
        DataError: there is none, or it is no list of texts.
    """
    value = row.get(key)
    if not isinstance(value, list) or not value or not all(isinstance(part, str) for part in value):
        cure = f"the data set's own file has a list of texts under {key!r} in every record"
        raise DataError(f"{key!r} is not a list of texts", where, cure)
    return value


def index_of(row: Mapping[str, Any], key: str, where: str, count: int) -> int:
    """The whole number under `key`, 0 to count - 1; it may be written as text.

    Raises:
        DataError: it is not there or is none.
    """
    value = row.get(key)
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < count:
        cure = "give a split with labels (those of a test set are often hidden)"
        raise DataError(f"{key!r} is {row.get(key)!r}, not a number from 0 to {count - 1}", where, cure)
    return value
