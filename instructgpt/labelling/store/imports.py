"""Tasks and replies from JSONL files and uploads; every fault is told with file and line."""

from __future__ import annotations

import contextlib
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from instructgpt.data.jsonl import json_type, read_jsonl
from instructgpt.data.records import read_prompts
from instructgpt.data.sources import normalise
from instructgpt.errors import DataError
from instructgpt.labelling.store import audit
from instructgpt.labelling.store.access import require
from instructgpt.labelling.store.database import Store, get
from instructgpt.labelling.store.leases import replies_needed
from instructgpt.labelling.store.new_tasks import NewReply, NewTask, Purpose, check_reply, check_task
from instructgpt.labelling.store.prompts import prompt_hash
from instructgpt.labelling.store.refusals import Invalid
from instructgpt.labelling.store.tables import ProjectRow, TaskRow
from instructgpt.labelling.store.tasks import Added, add_replies, add_tasks

MAX_UPLOAD = 64 * 1024 * 1024
BATCH = 500
"""Tasks whose replies are written in one transaction, so that labelers needn't wait long."""
TASK_EXAMPLE = '{"prompt": "Name a river.", "responses": ["The Nile.", {"text": "Paris.", "model": "m1"}]}'
BRIEF_EXAMPLE = '{"brief": "Something that a nurse would ask", "style": "user-based"}'
REPLY_EXAMPLE = '{"prompt": "Name a river.", "responses": [{"text": "The Nile.", "model": "m1"}]}'

Source = Path | tuple[str, bytes]


def import_tasks(
    store: Store, project_id: int, file: Source, *, by: int | None, purpose: Purpose = "work"
) -> Added:
    """Add the tasks of a JSONL file, if all of its lines are right; see `tasks` for the lines. Tasks that are
    there already, by the id of their prompt, are passed over.

    Args:
        store: the database.
        project_id: the project.
        file: a path, or an upload as (its name, its bytes).
        by: an admin.
        purpose: real work, the screening test, or examples.

    Raises:
        DataError: the file can't be read, or a line is wrong: file, line and field are named.
        Invalid: the upload is too large or packed.
        NotFound, Forbidden: there is no such project; `by` is not an admin.
    """
    with store.read() as session:
        require(session, by, "admin")
        kind = get(session, ProjectRow, project_id, "project").kind
    with _readable(file) as path:
        found = list(_briefs(path) if kind == "prompt" else _prompts(path, kind, purpose))
        for where, task in found:
            with _at(where):
                check_task(kind, task, purpose, "the task")
    return add_tasks(store, project_id, (task for _, task in found), by=by, purpose=purpose)


@contextlib.contextmanager
def _readable(file: Source) -> Iterator[Path]:
    """A path to read the source from; faults name it as the user knows it."""
    if isinstance(file, Path):
        yield file
        return
    name, content = file
    name = Path(name.replace("\\", "/")).name[:100] or "upload.jsonl"
    if len(content) > MAX_UPLOAD:
        raise DataError(
            f"the file has more than {MAX_UPLOAD // 2**20} MiB", name, "split it, or import it by command"
        )
    if name.endswith(".gz"):
        raise DataError("packed files are not taken here", name, "unpack it first")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "upload.jsonl"
        path.write_bytes(content)
        try:
            yield path
        except DataError as error:
            if isinstance(error, Invalid):
                raise
            raise DataError(error.what, error.where.replace(str(path), name), error.cure) from error


@contextlib.contextmanager
def _at(where: str) -> Iterator[None]:
    """Say at which line something was refused."""
    try:
        yield
    except DataError as error:
        if error.where == where:
            raise
        raise DataError(error.what, where, error.cure) from error


def _briefs(path: Path) -> Iterator[tuple[str, NewTask]]:
    for where, row in read_jsonl(path, BRIEF_EXAMPLE):
        brief, style = row.get("brief", ""), row.get("style", "plain")
        if not isinstance(brief, str) or not isinstance(style, str):
            raise DataError(
                "'brief' or 'style' is not a string", where, f"write lines such as {BRIEF_EXAMPLE}"
            )
        yield where, NewTask(None, style=style, brief=brief)  # type: ignore[arg-type]  # check_task looks


def _prompts(path: Path, kind: str, purpose: Purpose) -> Iterator[tuple[str, NewTask]]:
    prompts = read_prompts(_one(path))
    for (where, row), prompt in zip(read_jsonl(path, TASK_EXAMPLE), prompts, strict=True):
        with _at(where):
            explanation, response = row.get("explanation") or "", None
            if not isinstance(explanation, str):
                raise DataError("'explanation' is not a string", where)
            replies: tuple[NewReply, ...] = ()
            if kind == "demonstration":
                response = (
                    normalise(row, "demonstration").get("response") if purpose == "onboarding" else None
                )
            else:
                replies = _replies(normalise(row, "ranking").get("responses") or [], known=purpose != "work")
            yield where, NewTask(prompt, replies, response=response, explanation=explanation)


def _one(path: Path) -> Path:
    if "," in str(path):  # where several files may be named, commas part them
        raise DataError("the path has a comma in it", str(path), "rename it")
    return path


def _replies(value: Any, *, known: bool) -> tuple[NewReply, ...]:
    """Replies of a line: strings, or objects with text; their ranks only where a known answer is wanted."""
    if not isinstance(value, list):
        raise DataError(
            f"'responses' is {json_type(value)}, not a list", cure=f"write it as in {TASK_EXAMPLE}"
        )
    return tuple(_reply(one, number, known) for number, one in enumerate(value, start=1))


def _reply(value: Any, number: int, known: bool) -> NewReply:
    row = {"text": value} if isinstance(value, str) else value
    if not isinstance(row, dict) or not isinstance(row.get("text"), str):
        raise DataError(f"response {number} has no text", cure=f"write it as in {TASK_EXAMPLE}")
    model = row.get("model")
    if model is not None and not isinstance(model, str):
        raise DataError(f"'model' of response {number} is {json_type(model)}, not a string")
    if not known:
        return NewReply(row["text"], model)
    rank, rating, flags = row.get("rank"), row.get("rating"), row.get("flags") or []
    if rank is not None and (isinstance(rank, bool) or not isinstance(rank, int)):
        raise DataError(f"'rank' of response {number} is {json_type(rank)}, not a whole number from 1 (best)")
    if rating is not None and (
        isinstance(rating, bool) or not isinstance(rating, int | float) or not 1 <= rating <= 7
    ):
        raise DataError(f"'rating' of response {number} is not a number from 1 to 7")
    if not isinstance(flags, list) or not all(isinstance(flag, str) for flag in flags):
        raise DataError(f"'flags' of response {number} is not a list of strings")
    return NewReply(row["text"], model, rank, rating, tuple(flags))


# -- replies that come later


def import_replies(store: Store, project_id: int, file: Source, *, by: int | None) -> Added:
    """Add replies to tasks that are there: lines with the prompt's `id`, or else the prompt itself, and
    `responses`, or one `response` with its `model`. Replies that are there already are passed over.

    Args:
        store, project_id, file, by: as for `import_tasks`.

    Returns:
        `added` and `already_there` count replies; `waiting` counts the file's tasks that still have too few.

    Raises:
        DataError: the file can't be read, a line is wrong, or its prompt is not in the project.
        Invalid, NotFound, Forbidden: see `import_tasks`.
    """
    with store.read() as session:
        require(session, by, "admin")
        project = get(session, ProjectRow, project_id, "project")
        if not replies_needed(project):
            raise DataError("nothing is judged in this project, so that it takes no replies")
    with _readable(file) as path:
        wanted = _by_task(store, project_id, path)
    added = waiting = 0
    numbers = sorted(wanted)
    for start in range(0, len(numbers), BATCH):
        with store.write() as session:
            query = select(ProjectRow).where(ProjectRow.id == project_id).with_for_update(key_share=True)
            project = session.scalars(query).one()
            for task_id in numbers[start : start + BATCH]:
                added += add_replies(session, task_id, project, wanted[task_id])
                waiting += session.get_one(TaskRow, task_id).state == "waiting"
    with store.write() as session:
        audit.record(
            session, store.clock(), by, "add-replies", f"project {project_id}", project_id, added=added
        )
    return Added(added, sum(map(len, wanted.values())) - added, waiting)


def _by_task(store: Store, project_id: int, path: Path) -> Mapping[int, Sequence[NewReply]]:
    """The file's replies by the task that they belong to."""
    wanted: defaultdict[int, list[NewReply]] = defaultdict(list)
    rows = list(read_jsonl(path, REPLY_EXAMPLE))
    named = all("id" in row and "prompt" not in row for _, row in rows)
    hashes = [""] * len(rows) if named else [prompt_hash(prompt) for prompt in read_prompts(_one(path))]
    with store.read() as session:
        for (where, row), said in zip(rows, hashes, strict=True):
            with _at(where):
                if "response" in row and "responses" not in row:
                    row = row | {"responses": [{"text": row["response"], "model": row.get("model")}]}
                elif "id" not in row or "prompt" in row:
                    row = normalise(row, "ranking")
                task_id = _find(session, project_id, row.get("id"), said)
                if task_id is None:
                    cure = "import its prompt first"
                    raise DataError("no task of this project has this line's id or prompt", where, cure)
                replies = _replies(row.get("responses"), known=False)
                if not replies:
                    raise DataError("there are no responses", where, f"write lines such as {REPLY_EXAMPLE}")
                for one in replies:
                    check_reply(one)
                wanted[task_id] += replies
    return wanted


def _find(session: Session, project_id: int, key: Any, said: str) -> int | None:
    mine = select(TaskRow.id).where(TaskRow.project_id == project_id, TaskRow.purpose == "work")
    if key is not None:
        found = session.scalars(mine.where(TaskRow.key == str(key))).first()
        if found is not None or not said:
            return found
    return session.scalars(mine.where(TaskRow.prompt_hash == said)).first()
