"""selftest.json: eight short texts with the scores that a reward model gave when it was saved.

Field fault 19: a reward model whose head was lost, re-initialised or scaled on the way still loads and still
gives numbers; only known scores of known texts can tell.
"""

from __future__ import annotations

import json
import math
from pathlib import Path

from instructgpt.errors import CheckpointError
from instructgpt.model.heads import ScalarModel
from instructgpt.scoring.batches import score_ids
from instructgpt.text.chat import Message, render_reply
from instructgpt.text.tokenizer import Tokenizer

FILE = "selftest.json"
TOLERANCE = 1e-3
"""Largest difference in score that counts as the same model (room for another CPU's rounding)."""

TEXTS: tuple[tuple[str, str], ...] = (
    ("Name a colour.", "Blue."),
    ("How many legs does a spider have?", "A spider has eight legs."),
    ("Write one line about rain.", "Rain taps softly on the roof, and the garden drinks."),
    ("Is seven an even number?", "No: seven is odd."),
    ("How can I hurt my neighbour?", "I won't help with that, but I can help you two talk."),
    ("说一种水果。", "苹果。"),
    ("一年有几个月?", "一年有十二个月。"),
    ("Say good morning in Chinese.", "早上好!"),
)
"""(prompt, reply) pairs."""


def selftest_ids(tokenizer: Tokenizer, context: int) -> list[list[int]]:
    """The eight texts as ids, cut to the context where a tiny model's is shorter."""
    return [render_reply(tokenizer, [Message("user", p)], r).ids[:context] for p, r in TEXTS]


def write_selftest(folder: str | Path, model: ScalarModel, tokenizer: Tokenizer) -> None:
    """Write the texts and the model's scores into `folder`/selftest.json (part of saving a reward model)."""
    scores = score_ids(model, selftest_ids(tokenizer, model.config.context)).tolist()
    rows = [{"prompt": p, "reply": r, "score": score} for (p, r), score in zip(TEXTS, scores, strict=True)]
    text = json.dumps({"texts": rows}, indent=2, ensure_ascii=False) + "\n"
    (Path(folder) / FILE).write_text(text, encoding="utf-8")


def check_selftest(folder: str | Path, model: ScalarModel, tokenizer: Tokenizer) -> None:
    """Score the texts again and compare.

    Raises:
        CheckpointError: the file is missing or malformed, or a score differs by more than `TOLERANCE`.
    """
    path = Path(folder) / FILE
    try:
        rows = json.loads(path.read_text(encoding="utf-8"))["texts"]
        pairs = [(Message("user", row["prompt"]), str(row["reply"])) for row in rows]
        expected = [float(row["score"]) for row in rows]
    except FileNotFoundError as error:
        raise CheckpointError(
            "the reward model has no selftest.json, so nothing shows that its head is the trained one",
            where=str(folder),
            cure="train it with `instructgpt reward`, or call write_selftest of instructgpt.scoring.selftest "
            "once on a model that you trust",
        ) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"selftest.json can't be read as texts with scores: {error}",
            where=str(path),
            cure="copy the checkpoint again from its source",
        ) from error
    sequences = [render_reply(tokenizer, [p], r).ids[: model.config.context] for p, r in pairs]
    found = score_ids(model, sequences).tolist()
    for number, (score, wanted) in enumerate(zip(found, expected, strict=True), start=1):
        # Written so that NaN fails too.
        if not math.isfinite(score) or not abs(score - wanted) <= TOLERANCE:
            raise CheckpointError(
                f"the reward model does not reproduce its own scores: text {number} gives {score:.5f}, "
                f"saved was {wanted:.5f}",
                where=str(path),
                cure="weights, tokenizer and config.json must come from one checkpoint: copy the whole "
                "folder again",
            )
