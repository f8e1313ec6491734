"""The quality report as plain text, for a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len

from instructgpt.labelling.quality.report import QualityReport
from instructgpt.labelling.quality.resampling import TARGET, Estimate
from instructgpt.labelling.quality.scope import Agreement, FlagAgreement

PAPER = "training labelers 0.726 +- 0.015, held-out labelers 0.773 +- 0.013 (arXiv:2203.02155, 3.4)"
_SIGNS = {
    "fast": "hurries",
    "slow": "very slow at times",
    "same-ratings": "same rating for all replies",
    "position": "ranks by position",
    "repeated-text": "repeats texts",
}
_MISSING = "-"


def report_text(report: QualityReport) -> str:
    """Agreement over all, by group, by flag and by labeler, with a note where the overlap is too small."""
    parts = [
        f"{report.annotations} answers to {report.items} prompts; {report.overlapping} prompts with two "
        "labelers or more. Intervals are 95 %, bootstrap over prompts.",
        _table(["agreement", "value", "prompts", "needed"], _overall(report.overall)),
        f"The paper's labelers: {PAPER}. Ties: untied leaves out pairs that either labeler tied, ties half "
        "counts them half.",
    ]
    if report.groups:
        parts.append(_table(["group", "labelers", *_HEADS], [
            [group.group, str(group.labelers), *_cells(group.agreement)] for group in report.groups
        ]))  # fmt: skip
    ticked = [row for row in report.overall.flags if row.ticked]
    if ticked:
        parts.append(_table(["flag", "ticked", "percent", "alpha", "AC1"], [_flag(row) for row in ticked]))
    if len(ticked) < len(report.overall.flags):
        parts.append("Never ticked: " + ", ".join(_name(r) for r in report.overall.flags if not r.ticked))
    parts.append(_labelers(report))
    return "\n\n".join(part for part in parts if part)


_HEADS = ("untied", "ties half", "tau-b", "alpha ranks", "alpha ratings")


def _figures(agreement: Agreement) -> dict[str, Estimate]:
    rankings = agreement.rankings
    return {
        "pairs in the same order, untied": rankings.untied,
        "pairs in the same order, ties half": rankings.ties_half,
        "Kendall's tau-b": rankings.tau,
        "Krippendorff's alpha of ranks (ordinal)": agreement.ranks.alpha,
        "Krippendorff's alpha of ratings (ordinal)": agreement.ratings.alpha,
    }


def _overall(agreement: Agreement) -> list[list[str]]:
    return [
        [name, str(found), str(found.items), _needed(found)] for name, found in _figures(agreement).items()
    ]


def _needed(found: Estimate) -> str:
    return "" if found.needed is None else f"about {found.needed} for +-{TARGET:g}"


def _cells(agreement: Agreement) -> list[str]:
    return [str(found) for found in _figures(agreement).values()]


def _flag(row: FlagAgreement) -> list[str]:
    found = row.agreement
    return [_name(row), _number(row.ticked), str(found.percent), str(found.alpha), str(found.ac1 or _MISSING)]


def _name(row: FlagAgreement) -> str:
    return row.flag if row.about == "reply" else f"{row.flag} (prompt)"


def _labelers(report: QualityReport) -> str:
    heads = ["labeler", "answers", "seconds", "ties", *_HEADS[:3], "alpha ratings", "screening", "signs"]
    rows = []
    for row in report.labelers:
        habits, figures = row.habits, _cells(row.agreement)
        signs = [_SIGNS[sign] for sign in habits.signs] + ["excluded"] * row.labeler.excluded
        rows.append(
            [
                row.labeler.name,
                str(habits.answers),
                _MISSING if habits.median_seconds is None else f"{habits.median_seconds:.0f}",
                _number(habits.ties),
                *figures[:3],
                figures[4],
                str(row.screening.rankings) if row.screening else _MISSING,
                ", ".join(signs),
            ]
        )
    short = [
        f"{row.labeler.name} ({found.items} of about {found.needed} prompts)"
        for row in report.labelers
        if (found := row.agreement.rankings.untied).needed is not None and row.habits.answers
    ]
    note = f"Too little overlap to know their agreement by +-{TARGET:g}: {', '.join(short)}"
    return "\n\n".join([_table(heads, rows), *([note] if short else [])])


def _number(value: float | None) -> str:
    return _MISSING if value is None else f"{value:.3f}"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns as wide as their widest cell on a terminal, where a Chinese character takes two places."""
    lines = [list(heads), *map(list, rows)]
    widths = [max(cell_len(line[k]) for line in lines) for k in range(len(heads))]
    return "\n".join(
        "  ".join(
            cell + " " * (width - cell_len(cell)) for cell, width in zip(line, widths, strict=True)
        ).rstrip()
        for line in lines
    )
