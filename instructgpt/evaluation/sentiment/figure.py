"""Loss on training and test reviews as training goes on, a panel a model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from instructgpt.evaluation.drawing import INK, draw, label

_TRAIN, _TEST = "#8b949e", "#3f83f8"


def loss_curves(summary: Mapping[str, Any]) -> str:
    """Train and test loss over epochs for every system that has curves; a thin line a seed, a thick mean.

    The dotted line is the test loss of logistic regression, which is fitted in one go.
    """
    curves: Mapping[str, Sequence[Sequence[Mapping[str, float]]]] = summary["curves"]
    reference = summary["systems"]["logistic"]["loss"]["mean"]

    def paint(panels: list[Any]) -> None:
        for panel, (name, seeds) in zip(panels, curves.items(), strict=True):
            for key, shade, text in (("train_loss", _TRAIN, "train"), ("test_loss", _TEST, "test")):
                lines = [([row["epoch"] for row in rows], [row[key] for row in rows]) for rows in seeds]
                for x, y in lines:
                    panel.plot(x, y, color=shade, alpha=0.3, linewidth=0.9)
                if len({tuple(x) for x, _ in lines}) == 1:
                    mean = [sum(values) / len(values) for values in zip(*(y for _, y in lines), strict=True)]
                    panel.plot(lines[0][0], mean, color=shade, marker="o", markersize=4, label=text)
            panel.axhline(reference, color=INK, linewidth=0.9, linestyle=":", label="logistic, test")
            panel.set_ylim(bottom=0)
            panel.set_title(label(name))
            panel.set_xlabel("epoch")
            panel.set_ylabel("nats per review")
            panel.legend()

    return draw("sentiment-loss", paint, columns=max(1, len(curves)), height=3.4)
