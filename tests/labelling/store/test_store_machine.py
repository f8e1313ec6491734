"""Random sequences of what labelers and admins do, against a model that is a few dictionaries."""

import itertools
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from instructgpt.data.records import Prompt
from instructgpt.labelling.store import people, projects, queue, review, submit, tasks
from instructgpt.labelling.store.database import open_store
from instructgpt.labelling.store.form import DemonstrationAnswer
from instructgpt.labelling.store.projects import ProjectSettings
from instructgpt.labelling.store.refusals import Conflict, Forbidden
from instructgpt.labelling.store.tasks import NewTask
from instructgpt.text.chat import Message

LEASE = 600.0
LABELERS = 3
labelers = st.integers(0, LABELERS - 1)


def machine(fresh: Any) -> type[RuleBasedStateMachine]:
    """A state machine over databases that `fresh()` opens with a clock."""

    class Queue(RuleBasedStateMachine):
        """The model: for each task who holds it until when, and who is done with it and how."""

        @initialize(overlap=st.integers(1, 2), count=st.integers(1, 4))
        def begin(self, overlap: int, count: int) -> None:
            self.now = 1_000_000.0
            self.store = fresh(lambda: self.now)
            self.overlap = overlap
            self.people = [
                people.create_person(self.store, f"L{n}", None, "labeler", by=None).id
                for n in range(LABELERS)
            ]
            made = projects.create_project(
                self.store,
                ProjectSettings("P", "demonstration", overlap=overlap, lease_minutes=LEASE / 60),
                by=None,
            )
            self.project = made.id
            self.tasks: list[str] = []
            self.grow(count)
            self.held: dict[tuple[str, int], tuple[float, str]] = {}
            self.past: dict[tuple[str, int], tuple[str, str]] = {}  # (task, labeler) -> how it ended, token
            self.active = [True] * LABELERS
            self.rejected: set[tuple[str, int]] = set()
            self.receipts: dict[str, Any] = {}

        def grow(self, count: int) -> None:
            names = [f"t{len(self.tasks) + n}" for n in range(count)]
            tasks.add_tasks(self.store, self.project, [NewTask(Prompt.of(n, id=n)) for n in names], by=None)
            self.tasks += names

        def used(self, task: str) -> int:
            done = [
                key for key, (how, _) in self.past.items() if how == "submitted" and key not in self.rejected
            ]
            return sum(key[0] == task for key in self.held) + sum(key[0] == task for key in done)

        def expire(self) -> None:
            for key, (until, token) in list(self.held.items()):
                if until <= self.now:
                    del self.held[key]
                    self.past[key] = ("expired", token)

        @rule(count=st.integers(1, 2))
        def add(self, count: int) -> None:
            if len(self.tasks) < 8:
                self.grow(count)

        @rule(who=labelers)
        def take(self, who: int) -> None:
            self.expire()
            if not self.active[who]:
                with pytest.raises(Forbidden):
                    queue.next_task(self.store, self.people[who], self.project)
                return
            lease = queue.next_task(self.store, self.people[who], self.project)
            mine = [key for key in self.held if key[1] == who]
            free = {
                task
                for task in self.tasks
                if self.used(task) < self.overlap
                and (task, who) not in self.past
                and (task, who) not in self.held
            }
            if mine:
                assert lease is not None and lease.messages[0].content == mine[0][0]
                assert lease.token == self.held[mine[0]][1]
            elif not free:
                assert lease is None
            else:
                assert lease is not None and lease.messages[0].content in free
                assert lease.expires_at == self.now + LEASE
                self.held[lease.messages[0].content, who] = (self.now + LEASE, lease.token)

        @rule(who=labelers, data=st.data())
        def hand_in(self, who: int, data: st.DataObject) -> None:
            """The task in hands, or one that ended long ago: a late tab."""
            known = [(key, token) for key, (_, token) in self.held.items() if key[1] == who]
            known += [(key, token) for key, (_, token) in self.past.items() if key[1] == who]
            if not known:
                return
            key, token = data.draw(st.sampled_from(sorted(known)))
            answer = DemonstrationAnswer((Message("assistant", f"by {who}"),))
            how = "held" if key in self.held else self.past[key][0]
            if not self.active[who]:
                with pytest.raises(Forbidden):
                    submit.submit(self.store, self.people[who], token, answer)
            elif how == "skipped" or (how in ("expired", "released") and self.used(key[0]) >= self.overlap):
                with pytest.raises(Conflict):
                    submit.submit(self.store, self.people[who], token, answer)
            else:
                receipt = submit.submit(self.store, self.people[who], token, answer)
                assert self.receipts.setdefault(token, receipt) == receipt
                self.held.pop(key, None)
                self.past[key] = ("submitted", token)

        @rule(who=labelers)
        def skip(self, who: int) -> None:
            for key, (_, token) in list(self.held.items()):
                if key[1] == who and self.active[who]:
                    submit.skip(self.store, self.people[who], token, "other")
                    del self.held[key]
                    self.past[key] = ("skipped", token)

        @rule(who=labelers)
        def renew(self, who: int) -> None:
            self.expire()
            queue.return_expired(self.store)
            for key, (_, token) in list(self.held.items()):
                if key[1] == who:
                    self.held[key] = (queue.renew(self.store, self.people[who], token), token)

        @rule(seconds=st.sampled_from([1.0, LEASE / 2, LEASE]))
        def wait(self, seconds: float) -> None:
            self.now += seconds
            self.expire()
            queue.return_expired(self.store)

        @rule(who=labelers)
        def switch(self, who: int) -> None:
            self.active[who] = not self.active[who]
            people.set_active(self.store, self.people[who], self.active[who], by=None)
            for key, (_, token) in list(self.held.items()):
                if key[1] == who and not self.active[who]:
                    del self.held[key]
                    self.past[key] = ("released", token)

        @precondition(lambda self: self.receipts)
        @rule(data=st.data())
        def reject(self, data: st.DataObject) -> None:
            done = [key for key, (how, _) in self.past.items() if how == "submitted"]
            key = data.draw(st.sampled_from(sorted(done)))
            label = self.receipts[self.past[key][1]].label_id
            if key not in self.rejected:
                review.set_rejected(self.store, label, True, by=None)
                self.rejected.add(key)
            elif self.used(key[0]) < self.overlap:
                review.set_rejected(self.store, label, False, by=None)
                self.rejected.remove(key)
            else:
                with pytest.raises(Conflict):
                    review.set_rejected(self.store, label, False, by=None)

        @invariant()
        def same_as_the_model(self) -> None:
            if not hasattr(self, "store"):
                return
            for task in tasks.tasks(self.store, self.project, by=None):
                assert task.taken == self.used(task.key) <= self.overlap
                assert task.state == ("full" if task.taken == self.overlap else "open")
                assert task.skips == sum(
                    key[0] == task.key for key, (how, _) in self.past.items() if how == "skipped"
                )
            counted = {
                (label.task_key, self.people.index(label.person_id))
                for label in review.labels(self.store, self.project, by=None)
            }
            done = {key for key, (how, _) in self.past.items() if how == "submitted"}
            assert counted == done - self.rejected

        def teardown(self) -> None:
            if hasattr(self, "store"):
                self.store.close()

    return Queue


def test_the_queue_is_the_model_on_sqlite(ready_sqlite: Path, tmp_path: Path) -> None:
    numbers = itertools.count()

    def fresh(clock: Any) -> Any:
        path = tmp_path / f"{next(numbers)}.db"
        shutil.copy(ready_sqlite, path)
        return open_store(path, clock=clock)

    run_state_machine_as_test(machine(fresh), settings=_settings(12))


def test_the_queue_is_the_model_on_postgresql(new_postgres: Any) -> None:
    run_state_machine_as_test(
        machine(lambda clock: open_store(new_postgres(True), clock=clock)), settings=_settings(4)
    )


def _settings(examples: int) -> settings:
    return settings(
        max_examples=examples,
        stateful_step_count=25,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        derandomize=True,
        database=None,
    )
