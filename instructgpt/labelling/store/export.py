"""Out: what labelers and users gave, as the files that `sft`, `reward` and `eval` read.

| project | files |
|---|---|
| demonstration | `demonstrations_*` |
| prompt | `prompts_*`; of a few-shot prompt K, each query below the K-1 other pairs, and `demonstrations_*` |
| rank | `rankings_*`, and every untied pair as Hugging Face's `preferences_*` |
| compare | `comparisons_*`, and the same |
| feedback | `feedback_rankings_*`, `feedback_demonstrations_*`, `feedback_ratings_*` |

with `train`, `valid` or `test` for the star, split by user as everywhere. Labelers are named by a keyed hash
whose key stays in the database.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from instructgpt.data.jsonl import write_jsonl
from instructgpt.data.records import Demonstration, Prompt, RankedResponse, Ranking, to_row
from instructgpt.data.splits import split_of
from instructgpt.errors import DataError
from instructgpt.labelling.store import audit
from instructgpt.labelling.store.access import require
from instructgpt.labelling.store.database import Store, get, store_secret
from instructgpt.labelling.store.form import (
    CompareAnswer,
    DemonstrationAnswer,
    Judgement,
    PromptAnswer,
    RankAnswer,
)
from instructgpt.labelling.store.prompts import prompt_from_row
from instructgpt.labelling.store.review import LabelRecord, labels, parts
from instructgpt.labelling.store.tables import FeedbackRow, ProjectRow, ReplyRow, TaskRow
from instructgpt.text.chat import Message

MANIFEST = "export.json"
Rows = dict[str, list[dict[str, Any]]]


@dataclass(frozen=True)
class Exported:
    """What was written: lines of each file, and labels left out by reason (excluded, rejected, no-consent,
    all-bad)."""

    folder: Path
    files: dict[str, int]
    left_out: dict[str, int]


@dataclass(frozen=True)
class _Split:
    """How prompts are divided."""

    valid: float
    test: float
    seed: int

    def of(self, prompt: Prompt) -> str:
        return split_of(prompt, self.valid, self.test, self.seed)


def pseudonym(store: Store, person_id: int, what: str = "labeler") -> str:
    """A name that tells nothing, the same in every export of this database and in no other's."""
    return named(store_secret(store, "pseudonyms"), what, str(person_id))


def named(key: bytes, what: str, who: str) -> str:
    """`what` and twelve hexadecimal digits of a keyed hash of who it is."""
    return f"{what}-{blake2b(f'{what}:{who}'.encode(), key=key, digest_size=6).hexdigest()}"


def export_rows(
    store: Store,
    project_id: int,
    *,
    by: int | None,
    valid: float | None = None,
    test: float | None = None,
    seed: int | None = None,
    include_all_bad: bool = True,
) -> tuple[Rows, dict[str, int]]:
    """The lines of each file, by its name without ending; and how many labels were left out, by reason.

    Args:
        store: the database.
        project_id: which project.
        by: an admin.
        valid, test, seed: of the split; the project's own if not given. A prompt that names its split keeps
            it.
        include_all_bad: whether rankings marked "all bad" are among them; their order still says what is
            worse.

    Raises:
        NotFound, Forbidden: there is no such project; `by` is not an admin.
        ConfigError: the shares leave nothing to train on.
    """
    with store.read() as session:
        require(session, by, "admin")
        project = get(session, ProjectRow, project_id, "project")
        split = _Split(
            project.valid if valid is None else valid,
            project.test if test is None else test,
            project.seed if seed is None else seed,
        )
    split.of(Prompt.of("-"))  # wrong shares are told even if there is nothing to export
    everything = labels(store, project_id, by=by, include_excluded=True, include_rejected=True)
    key = store_secret(store, "pseudonyms")
    rows: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    left_out: Counter[str] = Counter()
    with store.read() as session:
        for label, prompt, replies in _with_tasks(session, everything):
            reason = _left_out(label, prompt, include_all_bad)
            if reason:
                left_out[reason] += 1
                continue
            labeler = named(key, "labeler", str(label.person_id))
            for name, part, row in _lines(label, prompt, replies, labeler, split):
                rows[f"{name}_{part}"].append(row | {"split": part})
    with store.write() as session:
        audit.record(session, store.clock(), by, "export", f"project {project_id}", project_id)
    return dict(rows), dict(left_out)


def _with_tasks(
    session: Session, found: Sequence[LabelRecord]
) -> Iterator[tuple[LabelRecord, Prompt | None, Sequence[ReplyRow]]]:
    """Each label with its prompt and its task's replies by position."""
    for some in parts(range(len(found))):
        here = [found[place] for place in some]
        task_ids = sorted({label.task_id for label in here})
        wanted = select(TaskRow.id, TaskRow.prompt).where(TaskRow.id.in_(task_ids))
        prompts = {number: row for number, row in session.execute(wanted)}
        replies: defaultdict[int, list[ReplyRow]] = defaultdict(list)
        query = (
            select(ReplyRow)
            .where(ReplyRow.task_id.in_(task_ids))
            .order_by(ReplyRow.task_id, ReplyRow.position)
        )
        for reply in session.scalars(query):
            replies[reply.task_id].append(reply)
        for label in here:
            row = prompts[label.task_id]
            yield label, prompt_from_row(row) if row else None, replies[label.task_id]
        session.expunge_all()


def _left_out(label: LabelRecord, prompt: Prompt | None, include_all_bad: bool) -> str:
    if label.excluded:
        return "excluded"
    if label.rejected:
        return "rejected"
    if prompt is not None and prompt.consent is False:
        return "no-consent"
    if isinstance(label.answer, RankAnswer) and label.answer.all_bad and not include_all_bad:
        return "all-bad"
    return ""


def _lines(
    label: LabelRecord, prompt: Prompt | None, replies: Sequence[ReplyRow], labeler: str, split: _Split
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """(kind of file, part, line) of everything that one label gives."""
    answer = label.answer
    if isinstance(answer, PromptAnswer):
        yield from _written(answer, labeler, split)
    elif prompt is not None and isinstance(answer, DemonstrationAnswer):
        *before, last = answer.turns
        longer = prompt if not before else _longer(prompt, before)
        yield (
            "demonstrations",
            split.of(prompt),
            to_row(Demonstration(longer, last.content)) | {"labeler": labeler},
        )
    elif prompt is not None and isinstance(answer, RankAnswer | CompareAnswer):
        ranking = Ranking(prompt, tuple(_ranked(one, replies) for one in answer.judgements), labeler)
        row = to_row(ranking)
        if isinstance(answer, RankAnswer):
            row |= {"all_bad": True} if answer.all_bad else {}
            row |= {"prompt_flags": list(answer.prompt_flags)} if answer.prompt_flags else {}
        part = split.of(prompt)
        yield "rankings" if isinstance(answer, RankAnswer) else "comparisons", part, row
        yield from (("preferences", part, pair) for pair in preference_pairs(ranking))


def _ranked(one: Judgement, replies: Sequence[ReplyRow]) -> RankedResponse:
    reply = replies[int(one.reply)]
    return RankedResponse(reply.text, one.rank, one.rating, one.flags, reply.model)


def _longer(prompt: Prompt, turns: Sequence[Message]) -> Prompt:
    """The prompt with further turns of the conversation; what is said of its answer no longer holds."""
    return Prompt(
        (*prompt.messages, *turns),
        prompt.id,
        prompt.user_id,
        prompt.category,
        prompt.group,
        prompt.split,
        prompt.source,
        prompt.consent,
    )


def _written(answer: PromptAnswer, labeler: str, split: _Split) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """A labeler's prompt. Of a few-shot prompt each query in turn is asked below the other pairs; all of them
    are in the same part, since they share the instruction."""
    part = split.of(Prompt.of(answer.text))
    more = {"category": answer.category, "source": "labeler"}
    if not answer.examples:
        yield "prompts", part, to_row(Prompt.of(answer.text, **more)) | {"labeler": labeler}
    for place, asked in enumerate(answer.examples):
        others = [one for other, one in enumerate(answer.examples) if other != place]
        shots = "".join(f"{one.query}\n{one.response}\n\n" for one in others)
        prompt = Prompt.of(f"{answer.text}\n\n{shots}{asked.query}", **more)
        yield "prompts", part, to_row(prompt) | {"labeler": labeler}
        yield "demonstrations", part, to_row(Demonstration(prompt, asked.response)) | {"labeler": labeler}


def preference_pairs(ranking: Ranking) -> Iterator[dict[str, Any]]:
    """Every untied pair of a ranking as a Hugging Face preference row; texts where the prompt is one, else
    messages."""
    row = to_row(ranking)
    kept = {
        name: row[name]
        for name in ("id", "user_id", "category", "group", "source", "consent", "labeler")
        if name in row
    }
    plain = isinstance(row["prompt"], str)
    for better in ranking.responses:
        for worse in ranking.responses:
            if better.rank < worse.rank:
                chosen, rejected = (
                    one.text if plain else [{"role": "assistant", "content": one.text}]
                    for one in (better, worse)
                )
                yield {"prompt": row["prompt"], "chosen": chosen, "rejected": rejected} | kept


# -- feedback


def feedback_rows(
    store: Store, *, by: int | None, valid: float = 0.1, test: float = 0.0, seed: int = 0
) -> tuple[Rows, dict[str, int]]:
    """As `export_rows`, of what users said; only with their consent, and with a pseudonym for each.

    Raises:
        Forbidden: `by` is not an admin.
        ConfigError: the shares leave nothing to train on.
    """
    split, key = _Split(valid, test, seed), store_secret(store, "pseudonyms")
    split.of(Prompt.of("-"))
    rows: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    left_out: Counter[str] = Counter()
    with store.read() as session:
        require(session, by, "admin")
        for row in session.scalars(
            select(FeedbackRow).order_by(FeedbackRow.id).execution_options(yield_per=500)
        ):
            if not row.consent or row.withdrawn_at is not None:
                left_out["no-consent"] += 1
                continue
            user = named(key, "user", row.user_id) if row.user_id is not None else None
            messages = tuple(Message(**turn) for turn in row.messages)
            prompt = Prompt(messages, f"feedback-{row.id}", user, source="feedback", consent=True)
            part = split.of(prompt)
            for name, line in _said(row, prompt):
                rows[f"feedback_{name}_{part}"].append(line | {"split": part})
    with store.write() as session:
        audit.record(session, store.clock(), by, "export-feedback", "feedback")
    return dict(rows), dict(left_out)


def _said(row: FeedbackRow, prompt: Prompt) -> Iterator[tuple[str, dict[str, Any]]]:
    first = row.replies[0]
    if row.kind == "thumb":
        line = to_row(prompt)
        made = {name: first[name] for name in ("model", "model_hash", "sampling") if first[name]}
        yield "ratings", line | {"completion": first["text"], "label": row.thumb == "up"} | made
        return
    replies, ranks = row.replies, row.ranks
    if row.kind == "edit":
        yield "demonstrations", to_row(Demonstration(prompt, row.edited or ""))
        if row.edited == first["text"]:
            return
        replies, ranks = [{"text": row.edited, "model": None}, first], [1, 2]
    ranked = [
        RankedResponse(one["text"], rank, model=one["model"])
        for one, rank in zip(replies, ranks, strict=True)
    ]
    line = to_row(Ranking(prompt, tuple(ranked)))
    for shown, one in zip(line["responses"], replies, strict=True):
        shown |= {name: one[name] for name in ("model_hash", "sampling") if one.get(name)}
    yield "rankings", line | ({"flags": row.flags} if row.flags else {})


# -- files


def _write(folder: Path, rows: Rows, left_out: dict[str, int]) -> Exported:
    """Write the files, then remove those of an earlier export that this one doesn't have."""
    manifest = folder / MANIFEST
    before: list[str] = []
    if manifest.exists():
        try:
            before = list(json.loads(manifest.read_text(encoding="utf-8"))["files"])
        except (ValueError, KeyError, TypeError, OSError) as error:
            raise DataError(
                "this is not the manifest of an export", str(manifest), "choose an empty folder"
            ) from error
    files = {f"{name}.jsonl": write_jsonl(folder / f"{name}.jsonl", rows[name]) for name in sorted(rows)}
    for name in before:
        if name not in files and Path(name).name == name and name.endswith(".jsonl"):
            (folder / name).unlink(missing_ok=True)
    write_jsonl(manifest, [{"files": files, "left_out": left_out}])
    return Exported(folder, files, left_out)


def export_project(
    store: Store,
    project_id: int,
    folder: str | Path,
    *,
    by: int | None,
    valid: float | None = None,
    test: float | None = None,
    seed: int | None = None,
    include_all_bad: bool = True,
) -> Exported:
    """Write a project's files into a folder, each whole or not at all.

    Args and Raises: as `export_rows`; DataError: the folder holds something else's `export.json`;
        StorageError: it can't be written.
    """
    rows, left_out = export_rows(
        store, project_id, by=by, valid=valid, test=test, seed=seed, include_all_bad=include_all_bad
    )
    return _write(Path(folder), rows, left_out)


def export_feedback(
    store: Store, folder: str | Path, *, by: int | None, valid: float = 0.1, test: float = 0.0, seed: int = 0
) -> Exported:
    """Write users' feedback into a folder of its own; see `feedback_rows` and `export_project`."""
    rows, left_out = feedback_rows(store, by=by, valid=valid, test=test, seed=seed)
    return _write(Path(folder), rows, left_out)


def export_zip(store: Store, project_id: int, *, by: int | None, include_all_bad: bool = True) -> bytes:
    """A project's files in one archive, for a download; equal labels give equal bytes.

    Raises:
        NotFound, Forbidden: see `export_rows`.
    """
    rows, left_out = export_rows(store, project_id, by=by, include_all_bad=include_all_bad)
    files = {f"{name}.jsonl": len(rows[name]) for name in sorted(rows)}
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in sorted(rows):
            lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows[name])
            archive.writestr(zipfile.ZipInfo(f"{name}.jsonl"), lines, zipfile.ZIP_DEFLATED)
        manifest = json.dumps({"files": files, "left_out": left_out}) + "\n"
        archive.writestr(zipfile.ZipInfo(MANIFEST), manifest, zipfile.ZIP_DEFLATED)
    return packed.getvalue()
