"""What a reward run measured, as a table for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_HEAD = f"{'pairs':>10}{'right':>9}{'95 % interval':>18}"
_TITLES = {
    "by_rank_distance": "rank distance",
    "by_length_sign": "length, in characters",
    "by_length_difference": "length, better / worse",
    "by_category": "category",
}
_WIDTH = 26
_NEAR_ONE = 0.05  # a temperature this near to 1 is called neither over- nor under-confident


def accuracy_table(summary: Mapping[str, Any]) -> str:
    """Accuracy on the held-out pairs beside the baselines, broken down, and calibration.

    Args:
        summary: of a run with held-out rankings; empty text without a held-out pair.
    """
    if not summary["pairs"]:
        return ""
    low, high = summary["accuracy_interval"]
    whole = {"name": "reward model", "pairs": summary["pairs"], "accuracy": summary["accuracy"]}
    lines = [f"{'held-out pairs':<{_WIDTH}}{_HEAD}", _row({**whole, "low": low, "high": high})]
    for name in ("longer_wins", "shorter_wins", "bag_of_words"):
        if summary.get(name) is not None:
            lines.append(f"{name.replace('_', ' '):<{_WIDTH}}{'':>10}{summary[name]:>9.3f}")
    for key, title in _TITLES.items():
        if summary[key]:
            lines += ["", f"{title:<{_WIDTH}}{_HEAD}", *map(_row, summary[key])]
    return "\n".join([*lines, "", _calibration(summary["calibration"])])


def members_table(summary: Mapping[str, Any]) -> str:
    """`accuracy_table` of an ensemble's mean, with its members and their disagreement."""
    if not summary["pairs"]:
        return ""
    each = " ".join(f"{value:.3f}" for value in summary["member_accuracy"])
    found = summary["disagreement"]
    lines = [
        accuracy_table(summary),
        "",
        f"members alone: {each}; the mean of their scores: {summary['accuracy']:.3f}",
        f"standard deviation over members: {found['replies']:.3f} of a reply's score, "
        f"{found['pairs']:.3f} of a pair's margin",
        "",
        f"{'disagreement on the pair':<{_WIDTH}}{_HEAD}",
        *map(_row, found["by_tertile"]),
        "",
        f"{'members with the mean':<{_WIDTH}}{_HEAD}",
        *map(_row, found["by_votes"]),
    ]
    return "\n".join(lines)


def folds_table(folds: Sequence[Mapping[str, Any]], means: Mapping[str, Mapping[str, float]]) -> str:
    """One line a fold: accuracy on the labelers it was trained on and on those it was not.

    Args:
        folds: rows of the summary's `folds`.
        means: its `own`, `held_out`, `difference`: {mean, standard_error}.
    """
    lines = [f"{'fold':<6}{'own labelers':>14}{'pairs':>9}{'held out':>12}{'pairs':>9}  held-out labelers"]
    for row in folds:
        own, other = _share(row["own_accuracy"]), _share(row["held_out_accuracy"])
        people = ", ".join(row["held_out_labelers"])
        shown = people if len(people) <= 50 else f"{people[:47]}..."
        lines.append(
            f"{row['fold']:<6}{own:>14}{row['own_pairs']:>9}{other:>12}{row['held_out_pairs']:>9}  {shown}"
        )
    text = {name: f"{value['mean']:.3f} ± {value['standard_error']:.3f}" for name, value in means.items()}
    ending = f"own {text['own']}, held out {text['held_out']}, difference {text['difference']}"
    return "\n".join([*lines, f"mean ± standard error over folds: {ending}"])


def _row(row: Mapping[str, Any]) -> str:
    interval = f"[{row['low']:.3f}, {row['high']:.3f}]"
    return f"{row['name'][: _WIDTH - 1]:<{_WIDTH}}{row['pairs']:>10}{row['accuracy']:>9.3f}{interval:>18}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _calibration(found: Mapping[str, Any]) -> str:
    text = f"calibration: mean confidence {found['confidence']:.3f}, ECE {found['ece']:.3f}, "
    temperature = found["temperature"]
    if temperature is None:
        return text + "no temperature is best (see the docs)"
    if abs(temperature - 1) <= _NEAR_ONE:
        verdict = "as sure as it may be"
    else:
        verdict = "over-confident" if temperature > 1 else "under-confident"
    return text + f"best temperature {temperature:.2f} ({verdict})"
