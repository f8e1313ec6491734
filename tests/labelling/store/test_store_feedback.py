"""What users of the served model said: kept once, exported only with consent."""

from pathlib import Path
from typing import Any

import pytest

from instructgpt.data.records import read_demonstrations, read_rankings
from instructgpt.labelling.store import export, feedback
from instructgpt.labelling.store.database import Store
from instructgpt.labelling.store.feedback import feedback_from_json, store_feedback
from instructgpt.labelling.store.refusals import Invalid

PROMPT = [{"role": "user", "content": "Name a river."}]
NILE = {"text": "Nile", "model": "mine", "model_hash": "0123456789abcdef", "parameters": {"temperature": 0.7}}
PARIS = {"text": "Paris", "model": "base", "model_hash": "fedcba9876543210", "parameters": {}}


def sent(number: int, **more: Any) -> dict[str, Any]:
    """A row as the serving side posts it."""
    return {
        "id": f"fb_{number:016x}",
        "time": "2026-01-02T03:04:05+00:00",
        "prompt": PROMPT,
        "replies": [NILE],
        "consent": True,
        "user": "ann@example.org",
        "key": "caller",
    } | more


def test_a_comparison_becomes_a_ranking_with_what_made_each_reply(store: Store, tmp_path: Path) -> None:
    rows = [
        sent(1, kind="comparison", replies=[PARIS, NILE], choice=1, reason="true"),
        sent(2, kind="comparison", replies=[PARIS, NILE], choice="tie"),
        sent(3, kind="comparison", replies=[PARIS, NILE], choice="both_bad"),
        sent(4, kind="comparison", replies=[PARIS, NILE, PARIS], ranks=[2, 1, 2]),
    ]
    for row in rows:
        store_feedback(store, feedback_from_json(row))
    export.export_feedback(store, tmp_path, by=None, valid=0.0)
    found = read_rankings(tmp_path / "feedback_rankings_train.jsonl")
    assert [[reply.rank for reply in one.responses] for one in found] == [[2, 1], [1, 1], [1, 1], [2, 1, 2]]
    assert [reply.model for reply in found[0].responses] == ["base", "mine"]
    user = found[0].prompt.user_id
    assert user is not None and user.startswith("user-") and "ann" not in user
    text = (tmp_path / "feedback_rankings_train.jsonl").read_text()
    assert "ann@example.org" not in text
    assert '"model_hash": "0123456789abcdef"' in text and '"sampling": {"temperature": 0.7}' in text


def test_an_edit_is_a_demonstration_and_better_than_what_it_mends(store: Store, tmp_path: Path) -> None:
    store_feedback(store, feedback_from_json(sent(1, kind="edit", replies=[PARIS], edited="The Nile.")))
    export.export_feedback(store, tmp_path, by=None, valid=0.0)
    (demonstration,) = read_demonstrations(tmp_path / "feedback_demonstrations_train.jsonl")
    assert demonstration.response == "The Nile."
    (ranking,) = read_rankings(tmp_path / "feedback_rankings_train.jsonl")
    assert [(one.text, one.rank, one.model) for one in ranking.responses] == [
        ("The Nile.", 1, None),
        ("Paris", 2, "base"),
    ]


def test_thumbs_are_rows_of_unpaired_preference(store: Store) -> None:
    for number, thumb in enumerate(("up", "down")):
        store_feedback(store, feedback_from_json(sent(number, kind="thumb", thumb=thumb)))
    rows, _ = export.feedback_rows(store, by=None, valid=0.0)
    found = rows["feedback_ratings_train"]
    assert [(row["prompt"], row["completion"], row["label"]) for row in found] == [
        ("Name a river.", "Nile", True),
        ("Name a river.", "Nile", False),
    ]
    assert found[0]["model_hash"] == NILE["model_hash"]


def test_without_consent_nothing_leaves(store: Store) -> None:
    store_feedback(store, feedback_from_json(sent(1, kind="thumb", thumb="up", consent=False)))
    store_feedback(store, feedback_from_json(sent(2, kind="thumb", thumb="up")))
    assert feedback.feedback_counts(store) == {"comparison": 0, "thumb": 2, "edit": 0, "exportable": 1}
    rows, left_out = export.feedback_rows(store, by=None, valid=0.0)
    assert {name: len(part) for name, part in rows.items()} == {"feedback_ratings_train": 1}
    assert left_out == {"no-consent": 1}
    assert feedback.withdraw_consent(store, "ann@example.org") == 2
    assert export.feedback_rows(store, by=None) == ({}, {"no-consent": 2})
    missing = sent(3, kind="thumb", thumb="up")
    del missing["consent"]
    assert feedback_from_json(missing).consent is False


def test_the_same_act_sent_again_is_stored_once(store: Store) -> None:
    row = feedback_from_json(sent(1, kind="thumb", thumb="up"))
    assert store_feedback(store, row) == store_feedback(store, row)
    assert feedback.feedback_counts(store)["thumb"] == 1
    assert row.at == 1767323045.0  # date -u -d 2026-01-02T03:04:05 +%s


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        {"kind": "shrug"},
        {"kind": "thumb"},
        {"kind": "thumb", "thumb": "sideways"},
        {"kind": "thumb", "thumb": "up", "replies": []},
        {"kind": "thumb", "thumb": "up", "replies": [NILE, PARIS]},
        {"kind": "thumb", "thumb": "up", "replies": [{"model": "m"}]},
        {"kind": "thumb", "thumb": "up", "replies": ["Nile"]},
        {"kind": "thumb", "thumb": "up", "replies": [NILE | {"parameters": "hot"}]},
        {"kind": "thumb", "thumb": "up", "prompt": []},
        {"kind": "thumb", "thumb": "up", "prompt": [{"role": "king", "content": "x"}]},
        {"kind": "thumb", "thumb": "up", "prompt": [*PROMPT, {"role": "assistant", "content": "x"}]},
        {"kind": "thumb", "thumb": "up", "prompt": "nul \x00"},
        {"kind": "thumb", "thumb": "up", "id": None},
        {"kind": "thumb", "thumb": "up", "time": "yesterday"},
        {"kind": "thumb", "thumb": "up", "consent": "yes"},
        {"kind": "thumb", "thumb": "up", "flags": "rude"},
        {"kind": "edit", "edited": " "},
        {"kind": "comparison", "replies": [NILE, PARIS]},
        {"kind": "comparison", "replies": [NILE, PARIS], "choice": 2},
        {"kind": "comparison", "replies": [NILE, PARIS], "choice": True},
        {"kind": "comparison", "replies": [NILE, PARIS], "ranks": [1]},
        {"kind": "comparison", "replies": [NILE, PARIS], "ranks": [1, 99]},
        {"kind": "comparison", "replies": [NILE], "choice": 0},
    ],
)
def test_wrong_rows_are_refused(wrong: Any) -> None:
    with pytest.raises(Invalid):
        feedback_from_json(sent(1, **wrong) if isinstance(wrong, dict) else wrong)
