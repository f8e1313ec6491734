"""The store's rows as annotations, and the report of a stored project."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from instructgpt.labelling.quality.annotations import Annotation, Known, Labeler
from instructgpt.labelling.quality.report import QualityReport, quality_report
from instructgpt.labelling.store import review, screening
from instructgpt.labelling.store.database import Store
from instructgpt.labelling.store.form import (
    PROMPT_FLAGS,
    REPLY_FLAGS,
    CompareAnswer,
    DemonstrationAnswer,
    PromptAnswer,
    RankAnswer,
)
from instructgpt.labelling.store.review import LabelRecord
from instructgpt.labelling.store.screening import ScreeningAnswer


def annotation_of(row: LabelRecord) -> Annotation:
    """One stored label as plain data; replies are named by their position as stored."""
    answer = row.answer
    seconds = row.seconds if row.active_seconds is None else row.active_seconds
    common = Annotation(row.task_key, str(row.person_id), row.kind, seconds=seconds)
    if isinstance(answer, DemonstrationAnswer):
        written = [turn.content for turn in answer.turns if turn.role == "assistant"]
        return replace(common, text="\n".join(written))
    if isinstance(answer, PromptAnswer):
        return replace(common, text=answer.text)
    judged = answer.judgements
    return replace(
        common,
        ranks={judgement.reply: judgement.rank for judgement in judged},
        ratings={j.reply: j.rating for j in judged if j.rating is not None},
        # A comparison need not carry flags, so that an empty box there says nothing.
        flags={j.reply: frozenset(j.flags) for j in judged} if isinstance(answer, RankAnswer) else {},
        prompt_flags=frozenset(answer.prompt_flags) if isinstance(answer, RankAnswer) else None,
        shown=tuple(str(position) for position in row.shown),
        all_bad=isinstance(answer, RankAnswer) and answer.all_bad,
    )


def known_of(person_id: int, answer: ScreeningAnswer) -> Known | None:
    """A screening answer beside the known one; None where it is a written one, which a person grades."""
    given = answer.answer
    if not isinstance(given, RankAnswer | CompareAnswer):
        return None
    replies = answer.task.replies
    known_flags = {str(r.position): frozenset(r.known_flags) for r in replies}
    return Known(
        item=answer.task.key,
        labeler=str(person_id),
        ranks={j.reply: j.rank for j in given.judgements},
        known_ranks={str(r.position): r.known_rank for r in replies if r.known_rank is not None},
        flags={j.reply: frozenset(j.flags) for j in given.judgements},
        # Without any known flag the question is about the order alone.
        known_flags=known_flags if any(known_flags.values()) else {},
    )


def project_quality(store: Store, project_id: int, *, by: int | None, seed: int = 0) -> QualityReport:
    """The report of a project's work labels; rejected ones are left out, screening answers stand beside them.

    Args:
        store: where the labels are.
        project_id: which project.
        by: who asks: a reviewer, an admin, or None for the operator.
        seed: draws the resamples.

    Raises:
        Forbidden, NotFound: as the store's functions do.
    """
    rows = review.labels(store, project_id, by=by, include_excluded=True)
    screened = review.labels(store, project_id, by=by, purpose="screening", include_excluded=True)
    known = [
        found
        for person_id in sorted({row.person_id for row in screened})
        for answer in screening.screening_answers(store, project_id, person_id, by=by)
        if (found := known_of(person_id, answer)) is not None
    ]
    annotations = [annotation_of(row) for row in rows]
    ranked = any(annotation.flags for annotation in annotations)
    return quality_report(
        annotations,
        _labelers([*rows, *screened]),
        known,
        flags=REPLY_FLAGS if ranked or known else (),
        prompt_flags=PROMPT_FLAGS if ranked else (),
        seed=seed,
    )


def _labelers(rows: Sequence[LabelRecord]) -> list[Labeler]:
    found = {row.person_id: row for row in rows}
    return [
        Labeler(str(person_id), row.person, row.group or "", row.excluded)
        for person_id, row in sorted(found.items())
    ]
