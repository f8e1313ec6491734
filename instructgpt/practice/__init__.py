"""The practice world: a small made-up language with a known, hidden utility, to measure every stage by.

It holds pretraining text, instructions in the ten use-case categories of InstructGPT (Table 1),
demonstrations of mixed quality and simulated labelers. Everything is regenerated from (seed, id); nothing
is downloaded.
"""

from instructgpt.practice.labelers import Labeler, RankedReplies, labelers, rank
from instructgpt.practice.tasks import Task
from instructgpt.practice.world import World, WorldConfig
from instructgpt.practice.write import WorldSizes, write_world

__all__ = [
    "Labeler",
    "RankedReplies",
    "Task",
    "World",
    "WorldConfig",
    "WorldSizes",
    "labelers",
    "rank",
    "write_world",
]
