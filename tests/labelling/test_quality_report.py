"""The report of a project: scopes, exclusion, screening, JSON and text."""

import json
import random
from dataclasses import replace

import pytest

pytest.importorskip("krippendorff", reason="install the label extra")

from instructgpt.labelling.quality.annotations import Annotation, Known, Labeler
from instructgpt.labelling.quality.coefficients import count_values, gwet_ac1, krippendorff_alpha
from instructgpt.labelling.quality.report import QualityReport, quality_report
from instructgpt.labelling.quality.text import report_text


def annotation(item: str, labeler: str, ranks: str, ratings: str, ticked: str = "") -> Annotation:
    """Ranks and ratings as digits, one a reply; `ticked` are the replies with the flag "harmful"."""
    replies = "abcd"[: len(ranks)]
    return Annotation(
        item,
        labeler,
        ranks=dict(zip(replies, map(int, ranks), strict=True)),
        ratings=dict(zip(replies, map(int, ratings), strict=True)),
        flags={reply: frozenset({"harmful"} if reply in ticked else ()) for reply in replies},
        shown=tuple(replies),
        seconds=30.0,
    )


PEOPLE = [
    Labeler("1", "Ana", "trained"),
    Labeler("2", "Bo", "trained"),
    Labeler("3", "王", "held-out"),
    Labeler("4", "Spammer", "", excluded=True),
]
FOUND = [
    annotation("p", "1", "123", "753", "c"),
    annotation("p", "2", "132", "735", "c"),
    annotation("p", "3", "123", "764"),
    annotation("p", "4", "321", "111", "abc"),
    annotation("q", "1", "12", "62"),
    annotation("q", "3", "21", "26"),
]


@pytest.fixture(scope="module")
def report() -> QualityReport:
    return quality_report(FOUND, PEOPLE)


def test_everybody_groups_and_each_labeler_by_hand(report: QualityReport) -> None:
    """On p Ana and Bo agree on 2 of 3 pairs, Ana and Wang on 3, Bo and Wang on 2; on q the two on 0 of 1."""
    assert (report.annotations, report.items, report.overlapping) == (5, 2, 2)
    assert report.overall.rankings.untied.value == pytest.approx(7 / 10)
    by_name = {row.labeler.name: row for row in report.labelers}
    assert list(by_name) == ["Ana", "Bo", "Spammer", "王"]
    assert by_name["Ana"].agreement.rankings.untied.value == pytest.approx(5 / 7)
    assert by_name["Bo"].agreement.rankings.untied.value == pytest.approx(4 / 6)
    assert by_name["王"].agreement.rankings.untied.value == pytest.approx(5 / 7)
    # The excluded labeler counts in no figure but in their own row: 0 of 3, 1 of 3 and 0 of 3.
    assert by_name["Spammer"].agreement.rankings.untied.value == pytest.approx(1 / 9)
    assert [(g.group, g.labelers) for g in report.groups] == [("held-out", 1), ("trained", 2)]
    assert report.groups[1].agreement.rankings.untied.value == pytest.approx(2 / 3)
    assert report.groups[0].agreement.rankings.untied.value is None
    assert report.matrix[0] == (None, pytest.approx(2 / 3), 0.0, pytest.approx(3 / 4))


def test_single_values_are_those_of_the_plain_functions(report: QualityReport) -> None:
    rated = [
        ((a.item, reply), a.labeler, rating)
        for a in FOUND
        if a.labeler != "4"
        for reply, rating in a.ratings.items()
    ]
    alpha = krippendorff_alpha(count_values(rated), "ordinal")
    assert report.overall.ratings.alpha.value == pytest.approx(alpha, abs=1e-12)
    (flag,) = report.overall.flags
    ticks = [
        ((a.item, reply), a.labeler, "harmful" in ticked)
        for a in FOUND
        if a.labeler != "4"
        for reply, ticked in a.flags.items()
    ]
    counts = count_values(ticks, (False, True))
    assert (flag.flag, flag.boxes, flag.ticked) == ("harmful", 13, pytest.approx(2 / 13))
    assert flag.agreement.alpha.value == pytest.approx(krippendorff_alpha(counts, "nominal"), abs=1e-12)
    assert flag.agreement.ac1 is not None
    assert flag.agreement.ac1.value == pytest.approx(gwet_ac1(counts), abs=1e-12)
    # Ana beside each other labeler: a b c with Bo, a b c and two of q with Wang; only c with Wang differs.
    ana = report.labelers[0].agreement.flags[0]
    assert (ana.boxes, ana.ticked, ana.agreement.units) == (5, pytest.approx(1 / 5), 8)
    assert ana.agreement.percent.value == pytest.approx(7 / 8)


def test_flags_of_the_prompt_stand_beside_those_of_replies() -> None:
    about = [replace(a, prompt_flags=frozenset({"ambiguous"} if a.labeler == "1" else ())) for a in FOUND]
    found = quality_report(about, PEOPLE).overall.flags
    assert [(f.about, f.flag) for f in found] == [("reply", "harmful"), ("prompt", "ambiguous")]
    # p: Ana against Bo and Wang, who agree: 1 of 3; q: 0 of 1.
    assert found[1].agreement.percent.value == pytest.approx((1 / 3 + 0) / 2)


def test_screening_against_known_answers() -> None:
    """Known order a < b = c: two untied pairs. Ana has one right and ties one: (1 + 0.5) / 2."""
    known = Known(
        "s1",
        "1",
        ranks={"a": 1, "b": 2, "c": 1},
        known_ranks={"a": 1, "b": 2, "c": 2},
        flags={"a": frozenset(), "b": frozenset({"harmful"}), "c": frozenset()},
        known_flags={"a": frozenset(), "b": frozenset({"harmful"}), "c": frozenset({"harmful"})},
    )
    found = quality_report(FOUND, PEOPLE, [known]).labelers[0].screening
    assert found is not None and found.questions == 1
    assert found.rankings.value == pytest.approx(1.5 / 2)
    assert found.flags.value == pytest.approx(2 / 3)
    assert found.flag_values is not None and found.flag_values.percent.value == pytest.approx(2 / 3)


def test_the_report_is_json_and_a_text(report: QualityReport) -> None:
    row = json.loads(json.dumps(report.row(), allow_nan=False))
    assert row["labelers"][3]["labeler"]["name"] == "王"
    text = report_text(report)
    assert "Spammer" in text and "excluded" in text and "0.700" in text and "harmful" in text
    assert "of about 385 prompts" in text
    lines = [line for line in text.splitlines() if line.startswith(("Bo ", "王 "))]
    assert lines[0].index("1 ") - 2 == lines[1].index("2 ") - 1, "a Chinese character is two places wide"


def test_nothing_at_all_is_a_report_too() -> None:
    assert "0 answers to 0 prompts" in report_text(quality_report([]))
    rows = json.dumps(quality_report([], PEOPLE).row(), allow_nan=False)
    assert '"answers": 0' in rows


def test_order_of_annotations_and_names_of_labelers_change_nothing() -> None:
    rng = random.Random(0)
    many = [
        annotation(f"p{k}", str(who), "".join(rng.sample("123", 3)), "123", rng.choice(["", "a", "ab"]))
        for k in range(30)
        for who in rng.sample(range(1, 4), 2)
    ]
    first = quality_report(many, PEOPLE)
    other = quality_report(sorted(many, key=lambda a: (a.item, a.labeler)), PEOPLE)
    assert first.overall.rankings.untied.value == pytest.approx(other.overall.rankings.untied.value)
    assert first.overall.flags[0].agreement.ac1.value == pytest.approx(
        other.overall.flags[0].agreement.ac1.value
    )  # type: ignore[union-attr]
    assert quality_report(many, PEOPLE) == first
