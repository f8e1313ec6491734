"""A reward model from five rankings of your own.

Run it with `python examples/own_rankings.py`. It writes rankings in our format, trains a tiny reward model on
them and scores two replies that it has not seen. Five rankings teach no more than their one obvious rule (the
polite reply wins); collect thousands.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from tiny_model import make_tiny_model

from instructgpt.data.records import Prompt, RankedResponse, Ranking, to_row, write_jsonl
from instructgpt.reward_model.train import RewardConfig, train
from instructgpt.scoring.reward import RewardModel
from instructgpt.text.chat import Message

RANKINGS = [
    Ranking(
        Prompt.of(question),
        (
            RankedResponse(f"{answer}, with pleasure.", rank=1),
            RankedResponse(f"{answer}.", rank=2),
            RankedResponse("no. go away.", rank=3),
            RankedResponse("no.", rank=3),  # equal ranks are ties: they make no pair
        ),
        labeler="anna",
    )
    for question, answer in [
        ("name a river", "the nile"),
        ("name a house", "the red house"),
        ("who sat on the mat", "the cat"),
        ("who ran to the sea", "the dog"),
        ("what is by the sea", "the house"),
    ]
]


def main(folder: Path) -> tuple[float, float]:
    """Train in `folder`; returns the scores of a polite and of a rude reply to an unseen prompt."""
    model = make_tiny_model(folder / "model")
    rankings = folder / "rankings.jsonl"
    write_jsonl(rankings, [to_row(ranking) for ranking in RANKINGS])
    print(rankings.read_text(encoding="utf-8").splitlines()[0])
    out = folder / "reward"
    train(
        RewardConfig(
            model=str(model),
            data=str(rankings),
            validation_share=0.0,
            out=str(out),
            epochs=20.0,
            batch=5,
            lr=3e-3,
            device="cpu",
        )
    )
    reward = RewardModel.load(out)
    question = [Message("user", "name the sea")]
    polite, rude = reward.score([question, question], ["the cold sea, with pleasure.", "no. go away."])
    return polite, rude


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        polite, rude = main(Path(place))
    print(f"score of a polite reply: {polite:.2f}")
    print(f"score of a rude reply: {rude:.2f}")
