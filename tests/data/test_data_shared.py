"""pack_shared: which beginnings are shared, and where every token lands."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from instructgpt.data.collate import pack_shared, shared_length

Ids = list[int]
ids = st.lists(st.integers(0, 3), min_size=1, max_size=8)
groups = st.lists(st.lists(ids, min_size=1, max_size=5), min_size=1, max_size=5)


def test_by_hand() -> None:
    """Two replies to [1 2 3], one sequence alone, three to [7 8]; the group of three comes first."""
    batch = pack_shared([[[1, 2, 3, 4], [1, 2, 3, 5, 6]], [[9, 9]], [[7, 8, 1], [7, 8, 2], [7, 8, 1, 1]]])
    assert batch.branches == [3, 2, 0]
    assert batch.lengths == [2, 3, 2, 1, 1, 2, 1, 2]
    assert batch.ids.tolist() == [7, 8, 1, 2, 3, 9, 9, 1, 2, 1, 1, 4, 5, 6]
    assert batch.positions.tolist() == [0, 1, 0, 1, 2, 0, 1, 2, 2, 2, 3, 3, 3, 4]
    # last tokens in the order given: 4 at place 11, 6 at 13, 9 at 6, then 1, 2 and the second 1
    assert batch.ends.tolist() == [11, 13, 6, 7, 8, 10]


@pytest.mark.parametrize(
    ("sequences", "length"),
    [
        ([[1, 2, 3]], 0),  # alone
        ([[1, 2, 3], [1, 2, 3]], 2),  # equal: the last token stays apart
        ([[1, 2, 3], [1, 2]], 1),
        ([[5], [5, 6]], 0),  # nothing would be left of the first
        ([[1, 2, 3, 4], [1, 2, 9, 4], [1, 2, 3, 4]], 2),
        ([[1, *[2] * 9], [1, *[3] * 9]], 0),  # 1 token saved of 20
        ([[1, 1, 1, *[2] * 9], [1, 1, 1, *[3] * 9]], 3),  # 3 of 24
    ],
)
def test_what_is_shared(sequences: list[Ids], length: int) -> None:
    assert shared_length(sequences) == length


@given(groups)
def test_every_sequence_can_be_read_back(given_groups: list[list[Ids]]) -> None:
    """Each sequence is its beginning and its rest, at positions 0, 1, ...; nothing is lost or twice."""
    batch = pack_shared(given_groups)
    ids, positions = batch.ids.tolist(), batch.positions.tolist()
    starts = [sum(batch.lengths[:i]) for i in range(len(batch.lengths) + 1)]
    documents = [(ids[a:b], positions[a:b]) for a, b in pairwise(starts)]
    parents = [parent for parent, count in enumerate(batch.branches) for _ in range(count)]
    read: dict[int, Ids] = {}
    for number, (tokens, places) in enumerate(documents):
        if number < len(batch.branches):
            assert places == list(range(len(tokens)))
            if batch.branches[number] == 0:
                read[starts[number + 1] - 1] = tokens
        else:
            before = documents[parents[number - len(batch.branches)]][0]
            assert places == list(range(len(before), len(before) + len(tokens)))
            read[starts[number + 1] - 1] = before + tokens
    flat = [sequence for group in given_groups for sequence in group]
    assert [read[end] for end in batch.ends.tolist()] == flat and len(read) == len(flat)
    assert batch.branches == sorted(batch.branches, reverse=True) and sum(batch.lengths) == len(ids)
