"""Weights between a model and what RL made of it: reward, a judge's score and the tax along the way.

The line is (1 - alpha) start + alpha end (`model.interpolate`). It is held against what PPO-ptx reaches, and
against PPO stopped earlier, by the same figures as the dials of `tax`: the share of the lost pretraining loss
that is recovered, and the share of the gained reward that it costs.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from instructgpt.data.records import Prompt, Text
from instructgpt.evaluation.answers import Candidate
from instructgpt.evaluation.judge import Judge
from instructgpt.evaluation.perplexity import text_loss
from instructgpt.evaluation.position import Position, locate
from instructgpt.evaluation.statistics import bootstrap, mean_interval
from instructgpt.evaluation.tax import DRAWS, Measured, trade
from instructgpt.model.interpolate import interpolate
from instructgpt.runtime.files import hash_path, write_json
from instructgpt.scoring.reward import Reward


@dataclass(frozen=True)
class Ground:
    """What every model is measured on, and by whom.

    Attributes:
        reference: the model that training started from; KL is against it.
        folder: keeps each model's measurement, under the hashes of what it was made of.
    """

    reference: Candidate
    reward: Reward
    judge: Judge | None
    prompts: Sequence[Prompt]
    texts: Sequence[Text]
    max_new: int
    seed: int
    folder: Path
    device: torch.device

    def measure(self, name: str, made_of: Sequence[Path], alpha: float | None = None) -> dict[str, Any]:
        """One value a prompt and a document: `position`, `nats`, `tokens`; from disk if measured before.

        Args:
            name: of the file that keeps it.
            made_of: one checkpoint, or the two with `alpha` between them.
        """
        path, made = self.folder / f"{name}.json", [hash_path(folder) for folder in made_of]
        if path.exists():
            known: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            if (known["hashes"], known["alpha"]) == (made, alpha):
                return known
        candidate = Candidate.load(name, made_of[0], self.device)
        if alpha is not None:
            interpolate(candidate.model, Candidate.load(name, made_of[1], self.device).model, alpha)
        position = locate(
            candidate,
            self.reference,
            self.reward,
            self.judge,
            self.prompts,
            max_new=self.max_new,
            seed=self.seed,
        )
        loss = text_loss(candidate.model, candidate.tokenizer, self.texts)
        found = {
            "hashes": made,
            "alpha": alpha,
            "position": position.row(),
            "nats": loss.nats,
            "tokens": loss.tokens_each,
        }
        write_json(path, found)
        return found


def row(found: Mapping[str, Any], start: Mapping[str, Any], seed: int) -> dict[str, Any]:
    """The figures of one model: means with 95 % intervals, over prompts and (`lost`) over documents.

    `lost` is the loss on pretraining text above the start's, nats per token.
    """
    position = Position(**found["position"])
    figures: dict[str, Any] = {"alpha": found["alpha"], **position.means()}
    kinds = {"reward": position.reward, "kl": position.kl}
    for name, values in (kinds | ({"score": position.score} if position.score else {})).items():
        interval = mean_interval(values, seed)
        figures |= {f"{name}_low": interval.low, f"{name}_high": interval.high}
    ours, theirs = _measured(found), _measured(start)
    lost = bootstrap(
        lambda drawn: _loss(ours, drawn) - _loss(theirs, drawn), len(ours.nats), seed, draws=DRAWS
    )
    figures |= {"lost": lost.mean, "lost_low": lost.low, "lost_high": lost.high}
    return figures | {"pretrain_loss": sum(found["nats"]) / sum(found["tokens"])}


def traded(
    found: Mapping[str, Any], start: Mapping[str, Any], end: Mapping[str, Any], seed: int
) -> dict[str, Any]:
    """What a model recovers of the loss that `end` lost against `start`, and its cost of the reward gained:
    {`recovered`, `cost`} with intervals, see `tax.trade`."""
    trades = trade(_measured(start), _measured(end), _measured(found), seed)
    return {"recovered": trades.recovered.row(), "cost": trades.cost.row(), "good": trades.good}


def _measured(found: Mapping[str, Any]) -> Measured:
    return Measured(
        "",
        0.0,
        0.0,
        np.array(found["position"]["reward"]),
        np.array(found["nats"]),
        np.array(found["tokens"], dtype=np.float64),
    )


def _loss(model: Measured, rows: np.ndarray) -> float:
    return float(model.nats[rows].sum() / model.tokens[rows].sum())
