"""What a labeler said about one prompt, as plain data that every statistic here reads."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass, field

Row = tuple[Hashable, Hashable, Hashable]
"""(item, labeler, value): the shape in which `count_values` takes single values."""


@dataclass(frozen=True)
class Annotation:
    """One labeler's answer to one task.

    Attributes:
        item: the prompt: what intervals draw again, and what two labelers have in common.
        labeler: the labeler's id.
        kind: "rank", "compare", "demonstration" or "prompt"; times are compared within a kind.
        ranks: reply id -> rank, 1 best, equal ranks are ties; empty if nothing was ranked.
        ratings: reply id -> overall quality, 1 to 7; replies without one are left out.
        flags: reply id -> the flags ticked, for every reply whose flags could be ticked.
        prompt_flags: flags ticked about the prompt; None if there were none to tick.
        shown: reply ids in the order shown, from the left; empty if unknown.
        seconds: time spent; None if unknown.
        text: what was written; "" for rankings.
        all_bad: the labeler marked all replies as bad.
    """

    item: str
    labeler: str
    kind: str = "rank"
    ranks: Mapping[str, int] = field(default_factory=dict)
    ratings: Mapping[str, int] = field(default_factory=dict)
    flags: Mapping[str, frozenset[str]] = field(default_factory=dict)
    prompt_flags: frozenset[str] | None = None
    shown: tuple[str, ...] = ()
    seconds: float | None = None
    text: str = ""
    all_bad: bool = False


@dataclass(frozen=True)
class Labeler:
    """A labeler as a report names them.

    Attributes:
        id: as in `Annotation.labeler`.
        name: what the report shows.
        group: labelers hired, trained or held out together; "" for none.
        excluded: their annotations count in no figure but their own row.
    """

    id: str
    name: str
    group: str = ""
    excluded: bool = False


@dataclass(frozen=True)
class Known:
    """One labeler's answer to a screening question with its known answer.

    Attributes:
        item: the question's id.
        labeler: the labeler's id.
        ranks, known_ranks: reply id -> rank; empty if the question ranks nothing.
        flags, known_flags: reply id -> flags ticked; empty if the question has no known flags.
    """

    item: str
    labeler: str
    ranks: Mapping[str, int] = field(default_factory=dict)
    known_ranks: Mapping[str, int] = field(default_factory=dict)
    flags: Mapping[str, frozenset[str]] = field(default_factory=dict)
    known_flags: Mapping[str, frozenset[str]] = field(default_factory=dict)
