"""Files of records: find them, read them line by line, write them whole. Every fault is told with file and
line."""

from __future__ import annotations

import contextlib
import difflib
import glob
import gzip
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

from instructgpt.errors import DataError, StorageError

JSONL_ENDINGS = (".jsonl", ".jsonl.gz")
TEXT_ENDINGS = (".txt", ".txt.gz")


def expand(path: str | Path, endings: tuple[str, ...] = JSONL_ENDINGS) -> list[Path]:
    """Files that a path means: one file, a glob (`data/*.jsonl`), or several of either with commas between.

    Raises:
        DataError: nothing is there, it is a folder, or its name has another ending.
    """
    files: list[Path] = []
    for part in [part.strip() for part in str(path).split(",")]:
        if not part:
            raise DataError(
                "a path of data is empty", where=repr(str(path)), cure="give a file, or several with commas"
            )
        if Path(part).exists() or not glob.has_magic(part):
            files.append(_existing(Path(part), endings))
            continue
        found = sorted(name for name in glob.glob(part, recursive=True) if os.path.isfile(name))
        if not found:
            raise DataError("no file matches", where=part, cure="look at the folder's name and the pattern")
        files += [_existing(Path(name), endings) for name in found]
    return files


def _existing(path: Path, endings: tuple[str, ...]) -> Path:
    if path.is_dir():
        raise DataError(
            "this is a folder, not a file of data",
            where=str(path),
            cure=f"name its files, for example '{path}/*{endings[0]}' (with the quotes)",
        )
    if not path.exists():
        beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, beside, n=3)
        cure = f"did you mean {', '.join(str(path.parent / name) for name in near)}" if near else ""
        if not path.parent.is_dir():
            cure = f"look at the folder's name: there is no {path.parent} below {Path.cwd()}"
        raise DataError("there is no such file", where=str(path), cure=cure or "look at the file's name")
    if not path.name.endswith(endings):
        cure = f"give files that end in {' or '.join(endings)}"
        if path.suffix == ".json" and ".jsonl" in endings:
            cure = f"make it one JSON object a line: jq -c '.[]' {path.name} > {path.stem}.jsonl"
        raise DataError("the file's name doesn't say that it holds records", where=str(path), cure=cure)
    return path


def read_bytes(path: Path) -> bytes:
    """Whole content of a file, unpacked if its name ends in .gz.

    Raises:
        DataError: it can't be read, is not whole gzip, or holds nothing.
    """
    try:
        with _open(path) as file:
            content = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, error) from error
    if not content.strip():
        raise DataError("the file is empty", where=str(path), cure="look at what should have written it")
    return content


def read_text(path: Path) -> str:
    """Whole content of a UTF-8 text file, plain or .gz, with `\\n` at the ends of lines.

    Raises:
        DataError: see `read_bytes`; or some bytes are not UTF-8, named by line.
    """
    content = read_bytes(path)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_utf8(path, content.count(b"\n", 0, error.start) + 1, error) from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_jsonl(path: Path, example: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Objects of a JSONL file, one at a time, each with its place as `file:line`; blank lines are passed
    over.

    Args:
        path: .jsonl or .jsonl.gz.
        example: a right line, shown when a wrong one is met.

    Raises:
        DataError: a line is not UTF-8, not JSON or not an object; the file is empty or can't be read.
    """
    number = 0
    empty = True
    try:
        with _open(path) as file:
            for number, raw in enumerate(file, start=1):
                try:
                    line = raw.decode("utf-8-sig" if number == 1 else "utf-8")
                except UnicodeDecodeError as error:
                    raise _not_utf8(path, number, error) from error
                if not line.strip():
                    continue
                empty = False
                yield f"{path}:{number}", _parse(line, f"{path}:{number}", example)
    except (OSError, EOFError, zlib.error) as error:
        raise _unreadable(path, error, number) from error
    if empty:
        raise DataError(
            "the file is empty", where=str(path), cure=f"write one record a line, such as {example}"
        )


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path, "rb")) if path.name.endswith(".gz") else path.open("rb")


def _parse(line: str, where: str, example: str) -> dict[str, Any]:
    try:
        row = json.loads(line)
    except (json.JSONDecodeError, RecursionError) as error:
        place = f", column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        reason = error.msg if isinstance(error, json.JSONDecodeError) else "nested too deep"
        cure = f"write one JSON object a line, such as {example}"
        if line.strip() in ("[", "{"):
            cure = f"put each record on its own line (jq -c '.[]' does that to a list), such as {example}"
        raise DataError(f"invalid JSON: {reason}{place}", where=where, cure=cure) from error
    if not isinstance(row, dict):
        raise DataError(
            f"the line holds {json_type(row)}, not an object",
            where=where,
            cure=f"write lines such as {example}",
        )
    return row


def json_type(value: Any) -> str:
    """What a JSON value is, in words."""
    names = {dict: "an object", list: "a list", str: "a string", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")


def _not_utf8(path: Path, line: int, error: UnicodeDecodeError) -> DataError:
    byte = error.object[error.start]
    return DataError(
        f"byte 0x{byte:02x} is not valid UTF-8",
        where=f"{path}:{line}",
        cure="save the file as UTF-8 (iconv -f latin1 -t utf-8 FILE, if it was written on an old Windows)",
    )


def _unreadable(path: Path, error: Exception, line: int = 0) -> DataError:
    if isinstance(error, gzip.BadGzipFile | EOFError | zlib.error):
        what, cure = "the file is not whole gzip data", "copy or download it again (gzip -t FILE tests it)"
    else:
        what = f"the file can't be read: {getattr(error, 'strerror', None) or error}"
        cure = "look at its permissions"
    return DataError(what, where=f"{path}:{line}" if line else str(path), cure=cure)


def write_jsonl(path: str | Path, rows: Iterable[Mapping[str, Any]]) -> int:
    """Write rows as JSONL (packed if the name ends in .gz), whole or not at all: a temporary name, then
    renamed.

    The same rows make the same bytes, so that hashes of files can be compared.

    Returns:
        number of rows.

    Raises:
        StorageError: the disk is full or the place can't be written; what was there before stays.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.tmp")
    count = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as raw:
            if path.name.endswith(".gz"):
                with gzip.GzipFile(filename="", fileobj=raw, mode="wb", mtime=0) as packed:
                    count = _write_rows(cast(BinaryIO, packed), rows)
            else:
                count = _write_rows(raw, rows)
            raw.flush()
            os.fsync(raw.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise StorageError(
            f"can't write: {(error.strerror or str(error)).lower()}; what was there before is untouched",
            where=str(path),
            cure="free some space or choose another place, then run the same command again",
        ) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return count


def _write_rows(file: BinaryIO, rows: Iterable[Mapping[str, Any]]) -> int:
    count = 0
    for row in rows:
        file.write((json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8"))
        count += 1
    return count
