"""Files that are whole or not there: atomic writes, and disk errors in the user's words."""

from __future__ import annotations

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from hashlib import blake2b
from pathlib import Path
from typing import Any

from instructgpt.errors import StorageError

_CURES = {
    errno.ENOSPC: "free some space or choose another --out, then run the same command again",
    errno.EDQUOT: "your quota is used up: free some space, then run the same command again",
    errno.EFBIG: "raise the limit on file size (ulimit -f), then run the same command again",
    errno.EROFS: "choose an --out that can be written",
    errno.EACCES: "choose an --out that you may write",
    errno.EPERM: "choose an --out that you may write",
    errno.ENOTDIR: "choose an --out below a folder: a part of this path is a file",
    errno.EEXIST: "choose an --out below a folder: a part of this path is a file",
    errno.ENAMETOOLONG: "choose a shorter --out",
}


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn failures to write `path` into a StorageError that says what is kept and what to do.

    Also those of the safetensors library, which reports the operating system's error as text.
    """
    try:
        yield
    except StorageError:
        raise
    except OSError as error:
        code = error.errno or 0
        cure = _CURES.get(code, "look at the disk, then run the same command again")
        reason = os.strerror(code) if code else str(error)
        what = f"can't write: {reason.lower()}; what was saved before is untouched"
        raise StorageError(what, str(path), cure) from error
    except Exception as error:
        if type(error).__name__ != "SafetensorError":
            raise
        cure = "free some space or raise the limit on file size, then run the same command again"
        what = f"can't write: {error}; what was saved before is untouched"
        raise StorageError(what, str(path), cure) from error


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a file atomically: to a temporary name beside it, flushed to disk, then renamed."""
    temporary = path.with_name(f".{path.name}.tmp")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise


def write_json(path: Path, value: Any) -> None:
    """Write JSON atomically (see `write_text`), indented, with non-ASCII text as it is."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=True) + "\n")


def write_folder(path: Path, fill: Callable[[Path], None]) -> None:
    """Make folder `path` atomically: `fill` writes into a temporary folder beside it, which is then renamed.

    A reader sees all of the folder or none of it, whatever kills the process meanwhile.
    """
    temporary, old = path.with_name(f".{path.name}.tmp"), path.with_name(f".{path.name}.old")
    with storage_errors(path):
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir(parents=True)
            fill(temporary)
            for file in sorted(temporary.rglob("*")):
                _sync(file)
            if path.exists():
                # Removed under another name: a kill meanwhile must leave no half folder under the good one.
                shutil.rmtree(old, ignore_errors=True)
                os.replace(path, old)
            os.replace(temporary, path)
            _sync(path.parent)
            shutil.rmtree(old, ignore_errors=True)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise


def hash_path(path: str | Path) -> str:
    """Hash of a file, or of a folder's files and names (16 hex digits); "missing" if there is nothing.

    Of a checkpoint only what makes the model counts: `train_state/` is left out.
    """
    path = Path(path)
    if not path.exists():
        return "missing"
    digest = blake2b(digest_size=8)
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        relative = file.relative_to(path) if path.is_dir() else Path(file.name)
        if "train_state" in relative.parts:
            continue
        digest.update(str(relative).encode())
        with file.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()
