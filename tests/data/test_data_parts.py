"""Cleaning and splits."""

import pytest

from instructgpt.data.clean import cap_per_user, remove_duplicates
from instructgpt.data.records import Demonstration, Prompt
from instructgpt.data.splits import split, split_of
from instructgpt.errors import ConfigError
from instructgpt.text.chat import Message


def test_duplicates_by_hand() -> None:
    long = "Summarise this letter for my mother, please: "
    prompts = [
        Prompt.of("Name a river."),
        Prompt.of("  name A\nriver. "),  # equal when folded
        Prompt.of("Name a river"),  # short: not equal, stays
        Prompt.of(long + "Dear aunt"),
        Prompt.of(long + "Dear uncle"),  # shares more than 40 characters
        Prompt((Message("user", "Name a river."), Message("assistant", "Nile"), Message("user", "Another."))),
    ]
    cleaned = remove_duplicates(prompts, prefix_characters=40)
    assert cleaned.kept == [prompts[0], prompts[2], prompts[3], prompts[5]]
    assert cleaned.dropped == {"equal": 1, "common_prefix": 1}
    assert remove_duplicates(prompts, prefix_characters=0).dropped == {"equal": 1, "common_prefix": 0}
    with pytest.raises(ConfigError, match="prefix_characters is -1"):
        remove_duplicates(prompts, -1)


def test_prefix_is_shared_with_any_kept_one() -> None:
    """A prompt exactly as long as the prefix begins another; each is compared to all that stay."""
    # The role and a mark stand before the text ("user" + 1), so 25 characters are 20 of the text.
    texts = ["a" * 20, "b" * 30, "a" * 19, "a" * 25, "b" * 20 + "c"]
    cleaned = remove_duplicates([Prompt.of(text) for text in texts], prefix_characters=25)
    assert [prompt.text for prompt in cleaned.kept] == ["a" * 20, "b" * 30, "a" * 19]


def test_cap_per_user() -> None:
    records = [Demonstration(Prompt.of(str(n), user_id=("u", "v", None)[n % 3]), "x") for n in range(12)]
    cleaned = cap_per_user(records, limit=2)
    # u has 0 3 6 9, v has 1 4 7 10: two of each stay; 2 5 8 11 have no user and all stay.
    assert [int(record.prompt.text) for record in cleaned.kept] == [0, 1, 2, 3, 4, 5, 8, 11]
    assert cleaned.dropped == {"over_user_limit": 4}
    with pytest.raises(ConfigError, match="limit per user is 0"):
        cap_per_user(records, 0)


def test_users_are_never_split() -> None:
    prompts = [Prompt.of(f"prompt {n}", user_id=f"user {n % 50}") for n in range(1000)]
    parts = split(prompts, valid=0.2, test=0.2)
    users = [{prompt.user_id for prompt in part} for part in parts.values()]
    assert all(users)
    assert len(set.union(*users)) == sum(len(group) for group in users) == 50
    assert sum(len(part) for part in parts.values()) == 1000


def test_conversations_and_repeats_are_never_split() -> None:
    for number in range(50):
        first = Message("user", f"Question {number}?")
        later = (first, Message("assistant", "A"), Message("user", "And then?"))
        same = {
            split_of(Prompt((first,)), 0.5),
            split_of(Prompt((first,), id="another"), 0.5),
            split_of(Prompt((Message("user", f" question  {number}? "),)), 0.5),
            split_of(Prompt(later), 0.5),
            split_of(Prompt((Message("system", "Be kind."), *later)), 0.5),
        }
        assert len(same) == 1


def test_shares_seeds_and_growth() -> None:
    """2,000 draws at 0.3: standard deviation 20.5, so within 82 of 600 (4 deviations)."""
    prompts = [Prompt.of(f"prompt {number}") for number in range(2000)]
    parts = split(prompts, valid=0.3)
    assert abs(len(parts["valid"]) - 600) < 82 and not parts["test"]
    assert split(prompts, valid=0.3, seed=1) != parts
    half = split(prompts[:1000], valid=0.3)
    assert all(set(half[name]) <= set(parts[name]) for name in parts)


def test_a_record_keeps_the_split_it_names() -> None:
    named = {"train": "train", "valid": "valid", "validation": "valid", "dev": "valid", "test": "test"}
    for name, part in named.items():
        assert split_of(Prompt.of("x", split=name), 0.5) == part
    assert split_of(Prompt.of("x", split="other"), 0.0) == "train"


def test_impossible_shares() -> None:
    for valid, test in ((0.5, 0.5), (-0.1, 0.0), (0.0, 1.5), (float("nan"), 0.0)):
        with pytest.raises(ConfigError, match="leave nothing to train on"):
            split([Prompt.of("x")], valid, test)
