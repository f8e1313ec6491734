"""The sample project: made once, plausible, partly labelled by simulated labelers, and no torch is loaded."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy", reason="install the label extra")
pytest.importorskip("krippendorff", reason="install the label extra")

from instructgpt.labelling import demo
from instructgpt.labelling.quality import project_quality, report_text
from instructgpt.labelling.store import people, progress, projects, queue, review, tasks
from instructgpt.labelling.store.database import Store, open_store
from instructgpt.labelling.store.form import RankAnswer
from instructgpt.practice import World, WorldConfig


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    opened = open_store(tmp_path_factory.mktemp("demo") / "demo.db")
    demo.make_demo(opened)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def project(store: Store) -> int:
    return demo.make_demo(store)


def test_it_is_made_once(store: Store, project: int) -> None:
    assert [found.id for found in projects.projects(store)] == [project]
    assert demo.make_demo(store) == project
    now = progress.progress(store, project, by=None)
    assert (now.tasks, now.labels, now.leased) == (demo.TASKS, demo.ANSWERED * demo.OVERLAP, 0)


def test_whoever_tries_it_sees_five_different_replies_in_either_language(store: Store, project: int) -> None:
    me = people.ensure_person(store, "me", "admin")
    lease = queue.next_task(store, me.id, project)
    assert lease is not None and len({reply.text for reply in lease.replies}) == demo.REPLIES
    rows = review.labels(store, project, by=None)
    # The first task is one that others have ranked, so that agreement has something to say.
    assert lease.messages[-1].content
    answered = {row.task_key for row in rows}
    assert demo.ANSWERED <= len(answered) <= demo.ANSWERED + 1
    assert all(isinstance(row.answer, RankAnswer) for row in rows)
    texts = [found.prompt.text for found in tasks.tasks(store, project, by=None, limit=100) if found.prompt]
    chinese = [text for text in texts if any("\u4e00" <= letter <= "\u9fff" for letter in text)]
    assert 4 <= len(chinese) <= len(texts) - 4


def test_capitals_change_no_judgement(store: Store, project: int) -> None:
    """The world's own utility of a reply is the same with and without capitals."""
    assert (
        demo.cased("i am hugo. sure thing, ana lives in rome.") == "I am Hugo. Sure thing, Ana lives in Rome."
    )
    assert demo.cased("wow! sorry, i can't.") == "Wow! Sorry, I can't."
    assert demo.cased("那么，ivan有一只马。") == "那么，Ivan有一只马。"
    world = World(WorldConfig(harmful=0.12))
    for found in tasks.tasks(store, project, by=None, limit=10):
        assert found.prompt is not None
        task = world.task(found.prompt.id)
        for reply in found.replies:
            assert world.utility(task, reply.text) == world.utility(task, reply.text.lower())


def test_the_dashboard_has_something_to_show(store: Store, project: int) -> None:
    report = project_quality(store, project, by=None)
    assert demo.ANSWERED - 1 <= report.overlapping <= demo.ANSWERED + 1
    assert report.overall.rankings.untied.low is not None
    by_name = {row.labeler.name: row for row in report.labelers}
    careless = by_name["Fang (simulated)"]
    others = [row for name, row in by_name.items() if name != "Fang (simulated)"]
    value = careless.agreement.rankings.untied.value
    assert value is not None
    assert all(value < (row.agreement.rankings.untied.value or 0) for row in others)
    assert [group.group for group in report.groups] == ["balanced", "courteous", "factual"]
    assert "Fang (simulated)" in report_text(report)


def test_the_labelling_room_and_the_sample_project_load_no_torch(tmp_path: Path) -> None:
    program = "import sys; from instructgpt.labelling import demo, quality; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)
