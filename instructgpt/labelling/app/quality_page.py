"""What the agreement page shows, from the quality report."""

from __future__ import annotations

from typing import Any

from instructgpt.labelling.app import plots
from instructgpt.labelling.app.page import Page
from instructgpt.labelling.quality import Agreement, Estimate, QualityReport, project_quality
from instructgpt.labelling.store.projects import Project

PAPER_AGREEMENT = 0.726
"""Agreement of the paper's training labelers (section 3.4)."""


def percent(estimate: Estimate) -> str:
    """`73 % [70, 76]`; a dash where it is not defined."""
    if estimate.value is None:
        return "–"
    shown = f"{estimate.value:.0%}"
    if estimate.low is None or estimate.high is None:
        return shown
    return f"{shown} [{estimate.low * 100:.0f}, {estimate.high * 100:.0f}]"


def coefficient(estimate: Estimate | None) -> str:
    """`0.61 [0.55, 0.67]`; a dash where it is not defined."""
    if estimate is None or estimate.value is None:
        return "–"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.2f}"
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]".replace("-", "−")


def agreement_sections(page: Page, project: Project) -> dict[str, Any]:
    """The values of the template `admin/agreement.html`."""
    report = project_quality(page.store, project.id, by=page.me)
    t = page.t
    dots = [
        (row.labeler.name, found.value, found.low, found.high)
        for row in report.labelers
        if (found := row.agreement.rankings.untied).value is not None
    ]
    return {
        "report": report,
        "figures": _figures(report.overall),
        "plot": plots.intervals(dots, t("agreement.per-labeler"), (PAPER_AGREEMENT, t("agreement.paper"))),
        "matrix": _matrix(report),
        "percent": percent,
        "coefficient": coefficient,
        "needed": report.overall.rankings.untied.needed,
    }


def _figures(agreement: Agreement) -> list[tuple[str, str, int]]:
    """(key of the text, value, prompts) of the overall figures."""
    rankings = agreement.rankings
    return [
        ("untied", percent(rankings.untied), rankings.untied.items),
        ("ties-half", percent(rankings.ties_half), rankings.ties_half.items),
        ("tau", coefficient(rankings.tau), rankings.tau.items),
        ("alpha-ranks", coefficient(agreement.ranks.alpha), agreement.ranks.alpha.items),
        ("alpha-ratings", coefficient(agreement.ratings.alpha), agreement.ratings.alpha.items),
    ]


def _matrix(report: QualityReport) -> list[tuple[str, list[tuple[str, int]]]]:
    """Rows of (name, cells of (percent, shade 0 to 9)); empty where nobody overlaps."""
    names = [row.labeler.name for row in report.labelers]
    if not any(value is not None for row in report.matrix for value in row):
        return []
    return [
        (name, [("–", 0) if value is None else (f"{value:.0%}", round(value * 9)) for value in row])
        for name, row in zip(names, report.matrix, strict=True)
    ]
