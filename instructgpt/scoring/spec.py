"""What the text of a `--reward` flag means: one reward, or the terms of a weighted sum.

runs/rm                                     models: a folder, or several with commas
my_module:function                          function
http://host:8000/score                      service
verify:exact, verify:words(at_most=50)      verify
0.7*runs/rm + 0.3*verify:exact              sum; `name=0.3*verify:exact` names a term
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from instructgpt.errors import ConfigError

Kind = Literal["models", "sum", "service", "verify", "function"]

RESERVED = frozenset({"disagreement", "length_correlation", "at_start_length", "failures"})
"""A term's score is logged as `reward_NAME`; these are logged already and mean something else."""

_PLUS = re.compile(r'\s+\+\s+(?=(?:[^"]*"[^"]*")*[^"]*$)')
_TERM = re.compile(
    r"(?:(?P<name>[A-Za-z_]\w*)\s*=\s*)?(?:(?P<weight>[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*\*\s*)?"
    r"(?P<spec>\S.*)",
    re.DOTALL,
)


@dataclass(frozen=True)
class Term:
    """A part of a weighted sum: `weight` times the reward that `spec` names, logged as `reward_NAME`."""

    name: str
    weight: float
    spec: str


def kind_of(spec: str) -> Kind:
    """What a spec is; whether it can be loaded is another matter. An existing folder is always a folder."""
    spec = spec.strip()
    if Path(spec).is_dir():
        return "models"
    if len(_PLUS.split(spec)) > 1 or spec != _split(spec)[2]:
        return "sum"
    if re.match(r"verify:", spec):
        return "verify"
    if "://" in spec:
        return "service"
    return "models" if "," in spec else "function"


def _split(term: str) -> tuple[str, str, str]:
    """(name, weight, rest) of a term, the first two empty where they are not given."""
    found = _TERM.fullmatch(term.strip())
    if found is None or Path(term.strip()).is_dir():
        return "", "", term.strip()
    return found["name"] or "", found["weight"] or "", found["spec"]


def terms_of(spec: str) -> list[Term]:
    """The terms of a weighted sum in their order; a weight that is not given is 1.

    Raises:
        ConfigError: a term is empty or has a weight of 0, or two have one name.
    """
    where = f"--reward {spec}"
    terms: list[Term] = []
    for part in _PLUS.split(spec.strip()):
        name, weight, rest = _split(part)
        value = float(weight) if weight else 1.0
        if not rest or value == 0 or not math.isfinite(value):
            what = f"a term of the sum has the weight {weight}" if rest else "a term of the sum is empty"
            raise ConfigError(what, where, "write it like 0.7*runs/rm + 0.3*verify:exact")
        if kind_of(rest) == "sum":
            raise ConfigError(
                f"a term of the sum is a sum itself: {rest!r}", where, "write one name and one weight a term"
            )
        term = Term(name or default_name(rest), value, rest)
        if term.name in {other.name for other in terms} | RESERVED:
            taken = "has a metric's name" if term.name in RESERVED else "has the name of another"
            raise ConfigError(
                f"a term of the sum {taken}: {term.name!r}",
                where,
                f"give it a name of its own, as in mine={weight or '1'}*{rest}",
            )
        terms.append(term)
    return terms


def default_name(spec: str) -> str:
    """A term's name where none is given: of a folder or a URL its last part, of others the function's."""
    kind = kind_of(spec)
    if kind == "service":
        url = urlsplit(spec)
        parts = [part for part in url.path.split("/") if part] or [url.hostname or ""]
    elif kind == "models" or ":" not in spec:
        parts = list(Path(spec.split(",")[0].strip()).parts)
        parts = [part for part in parts if not re.fullmatch(r"checkpoints|step-\d+|[./\\]+", part)] or parts
    else:
        parts = [spec.split("(")[0].partition(":")[2]]
    return re.sub(r"\W+", "_", parts[-1] if parts else "").strip("_").lower() or "part"
