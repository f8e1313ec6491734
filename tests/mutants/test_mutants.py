"""A fault that survives is a missing test: each one is planted into the real code and must be noticed.

The invariants hold on healthy code; then every fault of the modules faults_of_*.py is planted alone, and each
invariant that it names has to fail with its own error. A TypeError or the like is not a catch.
"""

from __future__ import annotations

import faults_of_models  # noqa: F401
import faults_of_runs  # noqa: F401
import faults_of_the_update  # noqa: F401
import invariants_of_a_round  # noqa: F401
import invariants_of_runs  # noqa: F401
import pytest
from fault import FAULTS, Fault
from invariant import INVARIANTS
from mutant_world import World

from instructgpt.errors import CheckError


@pytest.mark.parametrize("name", sorted(INVARIANTS))
def test_it_holds_on_healthy_code(world: World, name: str) -> None:
    INVARIANTS[name](world)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_it_is_caught(world: World, fault: Fault) -> None:
    for name in fault.caught_by:
        with pytest.MonkeyPatch.context() as patch:
            fault.plant(patch)
            with pytest.raises((AssertionError, CheckError)):
                INVARIANTS[name](world)


def test_every_invariant_catches_something() -> None:
    assert {name for fault in FAULTS for name in fault.caught_by} == set(INVARIANTS)
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 15
