"""The sample project of `label --demo`: prompts of the practice world with replies to rank, partly ranked."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from instructgpt.data.records import Prompt
from instructgpt.labelling.simulated import judge, seconds_for
from instructgpt.labelling.store import people, projects, queue, tasks
from instructgpt.labelling.store.database import Store
from instructgpt.labelling.store.projects import ProjectSettings
from instructgpt.labelling.store.submit import submit
from instructgpt.labelling.store.tasks import NewReply, NewTask
from instructgpt.practice import Labeler, Task, World, WorldConfig, labelers
from instructgpt.practice.lexicon import WORD_CLASS
from instructgpt.practice.replies import Quality, write_reply
from instructgpt.practice.write import distinct_tasks

NAME = "Practice world: rank the replies"
TASKS = 36
REPLIES = 5
OVERLAP = 3
ANSWERED = 24
"""Tasks for whose slots simulated labelers have answered, `OVERLAP` of them each."""
_DAYS = 6  # over which the simulated labelers' work is spread
_PEOPLE = ("Ana", "Ben", "Chen", "Dora", "Emil", "Fang")
"""Each is a simulated labeler of another taste; the last hardly looks."""

_PROPER = "|".join(word for word, kind in WORD_CLASS.items() if kind in ("name", "city"))
_NAME = re.compile(rf"(?<![a-z])(i|{_PROPER})(?![a-z])")
_START = re.compile(r"(?:^|(?<=[.!?] ))[a-z]")

# What wrote the replies: four writers from careful to careless, hidden from labelers.
_WRITERS = {
    "practice-careful": Quality(
        correct=0.97,
        ask=0.92,
        count=0.95,
        polite=0.75,
        ramble=0.02,
        refuses_harmful=0.95,
        refuses_plain=0.0,
        hedges_unknowable=0.95,
        hedges_plain=0.0,
        wrong_language=(0.0, 0.0),
    ),
    "practice-usual": Quality(),
    "practice-wordy": Quality(polite=0.9, ramble=0.8, wrong_language=(0.0, 0.0)),
    "practice-careless": Quality(correct=0.35, ask=0.3, count=0.3, polite=0.15, refuses_harmful=0.2),
}

INSTRUCTIONS = """\
# Rank the replies

You see a prompt and several replies. **First rate each reply, then put them in order.** Equal replies get
equal ranks: use ties freely.

1. *Helpful*: does it do what was asked, with the facts right and in the language of the prompt? Does it obey
   the small print: a tone, a name, a first or last word, a number?
2. *Truthful*: "nobody can know" is the right reply to what nobody can know.
3. *Harmless*: a polite refusal is the right reply to a request to hurt or rob somebody.

| rating | meaning |
|---|---|
| 7 | nothing to improve |
| 4 | useful, with faults |
| 1 | of no use, or harmful |

Tick the boxes that apply to a reply. If every reply is unfit for use, rank them all the same and say
*all bad*. If you can't judge, skip the task and say why.

---

# 给回复排序

先给每个回复**打分**（1 到 7），再**排序**；一样好的回复给同样的名次。看重的依次是：做到了要求没有
（事实、语言、语气、名字、字数），是否诚实，是否无害。对伤害别人的请求，礼貌地拒绝就是好回复；
没人能知道的事，说“没人知道”就是好回复。

*(This project was made by a program. Its little world has people like Ana and Xiao Ming who live in towns and
keep pets; what is right can be told from the prompt, and from common sense where it can't.)*
"""


@dataclass(frozen=True)
class _Sample:
    """One task of the project, as the world knows it and as the store gets it."""

    task: Task
    new: NewTask


def make_demo(store: Store, seed: int = 0) -> int:
    """Make the sample project, or find it; takes a second or so.

    36 prompts in English and Chinese with five replies each. Three of six simulated labelers have ranked each
    of the first 24 or so; everything is open to one labeler more, so that whoever tries it agrees or
    disagrees with somebody from the first task on.

    Args:
        store: where to make it.
        seed: of the practice world and all that is drawn.

    Returns:
        The project's id.
    """
    for found in projects.projects(store):
        if found.settings.name == NAME:
            return found.id
    world = World(WorldConfig(seed=seed, harmful=0.12))
    samples = _samples(world, seed)
    settings = ProjectSettings(
        name=NAME, kind="rank", instructions=INSTRUCTIONS, replies=REPLIES, overlap=OVERLAP, seed=seed
    )
    begun = _at(store, store.clock() - 86400.0 * _DAYS)
    project = projects.create_project(begun, settings, by=None)
    tasks.add_tasks(begun, project.id, [sample.new for sample in samples], by=None)
    asked = {sample.new.prompt.text: sample.task for sample in samples if sample.new.prompt}
    _label(store, project.id, world, asked, seed)
    projects.update_project(store, project.id, replace(settings, overlap=OVERLAP + 1), by=None)
    return project.id


def _at(store: Store, moment: float) -> Store:
    """The same store at another time."""
    return replace(store, clock=lambda: moment)


def cased(text: str) -> str:
    """A text of the practice world, which is all lower case, with capitals as people expect them."""
    text = _NAME.sub(lambda found: found[0].capitalize(), text)
    return _START.sub(lambda found: found[0].upper(), text)


def _samples(world: World, seed: int) -> list[_Sample]:
    """Tasks with replies of writers drawn at random, no two replies of a task the same."""
    found = []
    for task in distinct_tasks(world, "reward", 4 * TASKS):
        rng = random.Random(f"demo|{seed}|{task.id}")
        replies: dict[str, str] = {}
        for _ in range(40):
            model = rng.choice(list(_WRITERS))
            text = write_reply(task.spec, task.language, world.facts, _WRITERS[model], rng)
            replies.setdefault(cased(text), model)
            if len(replies) == REPLIES:
                prompt = Prompt.of(cased(task.prompt), id=task.id, category=task.category, source="practice")
                written = tuple(NewReply(text, model) for text, model in replies.items())
                found.append(_Sample(task, NewTask(prompt, written)))
                break
        if len(found) == TASKS:
            break
    # The first one that people see shows the interface, not the limits of this world.
    return sorted(found, key=lambda sample: sample is not _easiest(found))


def _easiest(samples: Sequence[_Sample]) -> _Sample:
    """The first plain English task about one person; else the first of all."""
    plain = (s for s in samples if s.task.language == "en" and s.task.spec.kind == "about")
    return next(plain, samples[0])


def _label(store: Store, project_id: int, world: World, asked: Mapping[str, Task], seed: int) -> None:
    """The simulated labelers take tasks from the queue and submit, one after another over the last days."""
    crowd = []
    for name, labeler in _crowd(seed):
        person = people.ensure_person(store, name, "labeler")
        people.set_group(store, person.id, labeler.group, by=None)
        crowd.append((person.id, labeler))
    rng = random.Random(f"demo|{seed}")
    turns = [one for one in crowd for _ in range(ANSWERED * OVERLAP // len(crowd))]
    rng.shuffle(turns)
    begin, spell = store.clock() - 86400.0 * (_DAYS - 0.5), 86400.0 * (_DAYS - 1) / len(turns)
    for number, (person_id, labeler) in enumerate(turns):
        moment = begin + spell * (number + rng.random() / 2)
        lease = queue.next_task(_at(store, moment), person_id, project_id)
        if lease is None:
            continue
        task = asked[lease.messages[-1].content]
        shown = {reply.key: reply.text for reply in lease.replies}
        seconds = seconds_for(labeler, task, list(shown.values()))
        if labeler.careless:
            seconds *= 0.2
        answer = judge(world, labeler, task, shown)
        submit(_at(store, moment + seconds), person_id, lease.token, answer, active_seconds=seconds)


def _crowd(seed: int) -> list[tuple[str, Labeler]]:
    """A labeler of the practice world for each name: two of three groups, the last of them careless."""
    everybody = labelers(seed)
    chosen = [
        labeler
        for group in ("balanced", "factual", "courteous")
        for labeler in sorted((one for one in everybody if one.group == group), key=_careless_last)[-2:]
    ]
    return [(f"{name} (simulated)", labeler) for name, labeler in zip(_PEOPLE, chosen, strict=True)]


def _careless_last(labeler: Labeler) -> tuple[bool, str]:
    return labeler.careless, labeler.id
