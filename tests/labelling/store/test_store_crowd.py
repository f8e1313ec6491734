"""Many at once, and the hardest stop: nothing is lost and nothing is there twice."""

import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable

from sqlalchemy import text

from instructgpt.labelling.store import leases, people, projects, queue, review, submit
from instructgpt.labelling.store.database import Store, open_store
from instructgpt.labelling.store.form import Judgement, RankAnswer
from instructgpt.labelling.store.projects import Project
from instructgpt.labelling.store.queue import Lease

Make = Callable[..., Project]


def answer_to(lease: Lease) -> RankAnswer:
    return RankAnswer(
        tuple(Judgement(reply.key, rank, 4) for rank, reply in enumerate(lease.replies, start=1))
    )


def assert_consistent(store: Store, project: Project, overlap: int, labels: int) -> None:
    """The counters are what counting the rows gives, and no rule is broken."""
    found = review.labels(store, project.id, by=None)
    assert len(found) == labels
    assert len({(label.task_id, label.person_id) for label in found}) == labels
    with store.engine.connect() as connection:
        rows = connection.execute(
            text(
                "SELECT t.taken, t.labels, t.wanted, t.state,"
                " (SELECT count(*) FROM assignments a WHERE a.task_id = t.id"
                " AND a.state IN ('leased', 'submitted')),"
                " (SELECT count(*) FROM labels l WHERE l.task_id = t.id) FROM tasks t"
            )
        ).all()
    for taken, counted, wanted, state, held, stored in rows:
        assert taken == held <= wanted == overlap
        assert counted == stored
        assert state == ("full" if taken == wanted else "open")


def test_fifty_at_once_lose_and_double_nothing(store: Store, make_project: Make) -> None:
    overlap, tasks_, crowd_size = 2, 60, 50
    project = make_project(tasks_, overlap=overlap)
    crowd = [
        people.create_person(store, f"L{number:02d}", None, "labeler", by=None)
        for number in range(crowd_size)
    ]
    receipts: list[tuple[int, str]] = []
    faults: list[BaseException] = []
    start = threading.Barrier(crowd_size)

    def work(person_id: int) -> None:
        rng = random.Random(person_id)
        try:
            start.wait()
            while (lease := queue.next_task(store, person_id, project.id)) is not None:
                if rng.random() < 0.05:
                    submit.skip(store, person_id, lease.token, "unclear")
                    continue
                first = submit.submit(store, person_id, lease.token, answer_to(lease))
                if rng.random() < 0.2:
                    assert submit.submit(store, person_id, lease.token, answer_to(lease)) == first
                receipts.append((person_id, lease.token))
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=work, args=(person.id,)) for person in crowd]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    # What was skipped when nobody else was left to take it is still there.
    for person in crowd:
        while (lease := queue.next_task(store, person.id, project.id)) is not None:
            submit.submit(store, person.id, lease.token, answer_to(lease))
            receipts.append((person.id, lease.token))
    assert len(receipts) == len(set(receipts)) == overlap * tasks_
    assert_consistent(store, project, overlap, overlap * tasks_)


def test_fifty_tabs_of_one_labeler_make_one_record(store: Store, make_project: Make) -> None:
    project = make_project(5)
    ann = people.create_person(store, "Ann", None, "labeler", by=None)
    start = threading.Barrier(50)
    tokens, receipts, faults = [], [], []

    def tab() -> None:
        try:
            start.wait()
            lease = queue.next_task(store, ann.id, project.id)
            assert lease is not None
            tokens.append(lease.token)
            start.wait()
            receipts.append(submit.submit(store, ann.id, tokens[0], answer_to(lease)))
        except BaseException as error:
            faults.append(error)
            start.abort()

    threads = [threading.Thread(target=tab) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    assert len(set(tokens)) == 1 and len(set(receipts)) == 1
    assert_consistent(store, project, 1, 1)


LABELER = """
import sys
from instructgpt.labelling.store import people, queue, submit
from instructgpt.labelling.store.database import open_store
from instructgpt.labelling.store.form import Judgement, RankAnswer

store = open_store(sys.argv[1], clock=lambda: 1_700_000_000.0)
person_id = int(sys.argv[2])
while (lease := queue.next_task(store, person_id, 1)) is not None:
    judged = tuple(Judgement(reply.key, rank, 4) for rank, reply in enumerate(lease.replies, start=1))
    receipt = submit.submit(store, person_id, lease.token, RankAnswer(judged))
    print(receipt.label_id, flush=True)
"""


def test_processes_share_the_queue(store: Store, store_url: str, make_project: Make) -> None:
    project = make_project(20, overlap=2)
    crowd = [people.create_person(store, f"L{number}", None, "labeler", by=None) for number in range(2)]
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", LABELER, store_url, str(person.id)], stdout=subprocess.PIPE, text=True
        )
        for person in crowd
    ]
    told = [int(line) for worker in workers for line in worker.communicate()[0].split()]
    assert [worker.returncode for worker in workers] == [0, 0]
    assert len(told) == len(set(told)) == 40
    assert_consistent(store, project, 2, 40)


def test_what_was_acknowledged_survives_sigkill(store: Store, store_url: str, make_project: Make) -> None:
    project = make_project(2000)
    ann = people.create_person(store, "Ann", None, "labeler", by=None)
    acknowledged: list[int] = []
    for after in (3, 8, 1):
        worker = subprocess.Popen(
            [sys.executable, "-c", LABELER, store_url, str(ann.id)], stdout=subprocess.PIPE, text=True
        )
        assert worker.stdout is not None
        for _ in range(after):
            acknowledged.append(int(worker.stdout.readline()))
        worker.send_signal(signal.SIGKILL)  # wherever it is by now
        acknowledged += [int(line) for line in worker.stdout.read().split("\n")[:-1]]
        assert worker.wait() == -signal.SIGKILL
        worker.stdout.close()
        again = open_store(store_url, clock=store.clock)
        kept = [label.label_id for label in review.labels(again, project.id, by=None)]
        again.close()
        assert set(acknowledged) <= set(kept)
        assert len(kept) <= len(acknowledged) + 3  # what was committed and not yet told, once a kill
    assert_consistent(store, project, 1, len(kept))


def test_expired_leases_return_once_whoever_looks(store: Store, make_project: Make, clock: "object") -> None:
    project = make_project(12, lease_minutes=5)
    crowd = [people.create_person(store, f"L{number}", None, "labeler", by=None) for number in range(12)]
    for person in crowd:
        assert queue.next_task(store, person.id, project.id)
    clock.pass_minutes(5)  # type: ignore[attr-defined]
    returned: list[int] = []
    threads = [
        threading.Thread(target=lambda: returned.append(leases.return_expired(store))) for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(returned) == 12
    assert_consistent(store, project, 1, 0)


def test_a_lease_is_found_by_the_index_of_the_queue(sqlite_store: Store) -> None:
    """Not by the clock: SQLite says how it would search."""
    settings = projects.ProjectSettings("P", "rank", replies=2, overlap=2)
    project = projects.create_project(sqlite_store, settings, by=None)
    with sqlite_store.engine.connect() as connection:
        plan = connection.execute(
            text(
                "EXPLAIN QUERY PLAN SELECT * FROM tasks WHERE project_id = :p AND purpose = 'work'"
                " AND state = 'open' AND lane = 1 AND position > 0 AND NOT EXISTS (SELECT 1 FROM assignments"
                " WHERE task_id = tasks.id AND person_id = 1 AND round = 0) ORDER BY position LIMIT 1"
            ),
            {"p": project.id},
        ).all()
    told = " | ".join(row[3] for row in plan)
    assert "ix_tasks_queue" in told and "TEMP B-TREE" not in told and "SCAN tasks" not in told
