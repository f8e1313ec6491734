"""People and projects that many tests of the store begin with."""

from collections.abc import Callable

import pytest

from instructgpt.data.records import Prompt
from instructgpt.labelling.store import people, projects, tasks
from instructgpt.labelling.store.database import Store
from instructgpt.labelling.store.people import Person
from instructgpt.labelling.store.projects import Project, ProjectSettings
from instructgpt.labelling.store.tasks import NewReply, NewTask


@pytest.fixture
def labelers(store: Store) -> list[Person]:
    """Four labelers."""
    return [
        people.create_person(store, name, None, "labeler", by=None) for name in ("Ann", "Bob", "Cem", "Dua")
    ]


@pytest.fixture
def make_project(store: Store) -> Callable[..., Project]:
    """Makes a project of `count` tasks; other arguments are settings. Of kind "rank" with two replies if
    nothing is said."""

    def make(count: int = 3, **settings: object) -> Project:
        chosen = {"name": "P", "kind": "rank", "replies": 2} | settings
        project = projects.create_project(store, ProjectSettings(**chosen), by=None)  # type: ignore[arg-type]
        if count:
            tasks.add_tasks(
                store,
                project.id,
                plain_tasks(count, project.settings.kind, project.settings.replies),
                by=None,
            )
        return project

    return make


def plain_tasks(count: int, kind: str, replies: int) -> list[NewTask]:
    if kind == "prompt":
        return [NewTask(None, brief="anything")] * count
    judged = tuple(NewReply(f"reply {place}", f"model-{place}") for place in range(replies))
    return [
        NewTask(
            Prompt.of(f"question {number}", id=f"q{number}"), judged if kind in ("rank", "compare") else ()
        )
        for number in range(1, count + 1)
    ]
