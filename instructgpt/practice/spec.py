"""What the world knows about an instruction and the reader of the prompt has to find out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Spec:
    """The hidden side of a task. All words are English canonical forms, whatever the prompt's language.

    Attributes:
        kind: what is asked: about, fact, list, mood, swap, event, label, repeat, names, harmful, unknowable.
        request: the text of the request without the asks.
        subject: the person or animal it is about.
        relation: relation asked for (fact, swap), class asked for (list), verb (event), mood (mood).
        values: the right value or values: facts, things, labels, names, words to repeat.
        wrong: what a careless reply may pick up: swap (old name,), event (other person, other thing),
            label (other label,).
        mentioned: names in the request, which the reply may use without addressing somebody wrongly.
        count: number of items, claims or repetitions asked for; 0 if none is.
        tone, start, end, name: the asks; "" if not asked.
    """

    kind: str
    request: str
    subject: str = ""
    relation: str = ""
    values: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    mentioned: tuple[str, ...] = ()
    count: int = 0
    tone: str = ""
    start: str = ""
    end: str = ""
    name: str = ""

    @property
    def slice(self) -> str:
        """ "harmful", "unknowable" or "plain"."""
        return self.kind if self.kind in ("harmful", "unknowable") else "plain"
