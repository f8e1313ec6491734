"""One report of a project's quality: agreement, habits and screening, over all, by group and by labeler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from instructgpt.labelling.quality.annotations import Annotation, Known, Labeler
from instructgpt.labelling.quality.habits import Habits, habits
from instructgpt.labelling.quality.scope import Agreement, Material
from instructgpt.labelling.quality.screening import ScreeningAgreement, screening_agreement


@dataclass(frozen=True)
class LabelerQuality:
    """One labeler.

    Attributes:
        labeler: who.
        habits: how they work.
        agreement: theirs with each of the others, excluded ones left out.
        screening: with known answers; None if they answered none.
    """

    labeler: Labeler
    habits: Habits
    agreement: Agreement
    screening: ScreeningAgreement | None


@dataclass(frozen=True)
class GroupQuality:
    """One group: its name, how many labelers it has here, and how far they agree with one another."""

    group: str
    labelers: int
    agreement: Agreement


@dataclass(frozen=True)
class QualityReport:
    """What is known about the quality of a project's labels.

    Attributes:
        annotations: answers counted, those of excluded labelers left out.
        items: prompts with an answer among them.
        overlapping: prompts that two labelers or more answered.
        overall: agreement among all labelers that are not excluded.
        labelers: in the order of their names, excluded ones too.
        groups: in the order of their names; labelers without one form none.
        matrix: share of untied pairs in the same order for every two of `labelers`; None where there is none.
    """

    annotations: int
    items: int
    overlapping: int
    overall: Agreement
    labelers: tuple[LabelerQuality, ...]
    groups: tuple[GroupQuality, ...]
    matrix: tuple[tuple[float | None, ...], ...]

    def row(self) -> dict[str, Any]:
        """As nested dictionaries, lists and numbers, ready for JSON."""
        return asdict(self)


def quality_report(
    annotations: Sequence[Annotation],
    labelers: Sequence[Labeler] | None = None,
    known: Sequence[Known] = (),
    flags: Sequence[str] | None = None,
    prompt_flags: Sequence[str] | None = None,
    seed: int = 0,
) -> QualityReport:
    """The report of some annotations.

    Args:
        annotations: at most one for each item and labeler; of several the last counts.
        labelers: who they are; by default those that occur, named by their ids. Others' annotations are left
            out.
        known: screening answers beside the known ones.
        flags, prompt_flags: the flags that could be ticked for a reply and for the prompt; by default those
            that somebody ticked.
        seed: draws the resamples; equal arguments give equal reports.
    """
    if labelers is None:
        ids = {a.labeler for a in annotations} | {k.labeler for k in known}
        labelers = [Labeler(labeler, labeler) for labeler in sorted(ids)]
    people = sorted(labelers, key=lambda person: (person.name, person.id))
    ids = {person.id for person in people}
    latest = list({(a.item, a.labeler): a for a in annotations if a.labeler in ids}.values())
    if flags is None:
        flags = sorted({flag for a in latest for ticked in a.flags.values() for flag in ticked})
    if prompt_flags is None:
        prompt_flags = sorted({flag for a in latest for flag in a.prompt_flags or ()})
    material = Material(latest, flags, prompt_flags, seed)
    counted = [person.id for person in people if not person.excluded]
    works = habits(latest, [person.id for person in people])
    rows = [
        LabelerQuality(
            labeler=person,
            habits=works[person.id],
            agreement=material.with_one(person.id, counted),
            screening=_screening(person, known, flags, seed),
        )
        for person in people
    ]
    included = [a for a in latest if a.labeler in set(counted)]
    per_item: dict[str, int] = {}
    for annotation in included:
        per_item[annotation.item] = per_item.get(annotation.item, 0) + 1
    return QualityReport(
        annotations=len(included),
        items=len(per_item),
        overlapping=sum(answers > 1 for answers in per_item.values()),
        overall=material.among(counted),
        labelers=tuple(rows),
        groups=_groups(people, material),
        matrix=material.matrix([person.id for person in people]),
    )


def _screening(
    person: Labeler, known: Sequence[Known], flags: Sequence[str], seed: int
) -> ScreeningAgreement | None:
    theirs = [answer for answer in known if answer.labeler == person.id]
    return screening_agreement(theirs, flags, seed) if theirs else None


def _groups(people: Sequence[Labeler], material: Material) -> tuple[GroupQuality, ...]:
    members: dict[str, list[str]] = {}
    for person in people:
        if person.group and not person.excluded:
            members.setdefault(person.group, []).append(person.id)
    return tuple(GroupQuality(group, len(ids), material.among(ids)) for group, ids in sorted(members.items()))
