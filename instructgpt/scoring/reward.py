"""Rewards behind one call `score(prompts, replies)`: checkpoints, ensembles, Python functions; and what a
`--reward` flag names, these and others."""

from __future__ import annotations

import importlib
import json
import math
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from instructgpt.errors import ConfigError, DataError
from instructgpt.model.adapter import tokenizer_folder
from instructgpt.model.heads import ScalarModel
from instructgpt.model.hf import load_scalar_model
from instructgpt.model.shared import Bases
from instructgpt.runtime.checkpoint import final_checkpoint
from instructgpt.scoring.batches import MAX_TOKENS, score_ids
from instructgpt.scoring.protocol import Reward
from instructgpt.scoring.selftest import check_selftest
from instructgpt.scoring.service import ServiceReward
from instructgpt.scoring.spec import kind_of, terms_of
from instructgpt.scoring.verify import Verify
from instructgpt.scoring.weighted import Part, WeightedSum
from instructgpt.text.chat import Message, render_reply
from instructgpt.text.tokenizer import Tokenizer

__all__ = [
    "Ensemble",
    "FunctionReward",
    "Reward",
    "RewardModel",
    "load_reward",
    "resolve_reward",
    "reward_folders",
    "reward_models",
]

SPEC_HELP = (
    "the folder of a reward model, several with commas for an ensemble, module:function for a Python "
    "function of your own, the URL of a service, verify:NAME, or a sum like 0.7*FOLDER + 0.3*verify:exact"
)


class RewardModel:
    """A trained reward model with its tokenizer.

    Scores include the mean-0 shift (`reward_bias` of config.json).
    """

    def __init__(self, model: ScalarModel, tokenizer: Tokenizer, name: str = "reward model") -> None:
        self.model, self.tokenizer, self.name = model, tokenizer, name
        self.dtype = torch.float32
        """Precision of the passes."""

    @classmethod
    def load(
        cls, folder: str | Path, device: torch.device | str = "cpu", bases: Bases | None = None
    ) -> RewardModel:
        """Load a checkpoint (or the last one of a finished stage's folder) and check that it reproduces the
        scores of its selftest.json. With `bases` the model is frozen and shares what is in memory there.

        Raises:
            CheckpointError: the folder is not a complete reward model, or its scores are not its own.
        """
        folder = final_checkpoint(folder)
        model = load_scalar_model(folder).to(device) if bases is None else bases.scalar(folder)
        model.eval()
        tokenizer = Tokenizer.load(tokenizer_folder(folder))
        check_selftest(folder, model, tokenizer)
        return cls(model, tokenizer, str(folder))

    def score_ids(self, sequences: Sequence[Sequence[int]], max_tokens: int = MAX_TOKENS) -> Tensor:
        """Scores (n,) float32 of ready ids, each read at the LAST token of its sequence.

        The ids must be of this model's tokenizer.
        """
        kind = self.model.head.weight.device.type
        with torch.autocast(kind, self.dtype, enabled=self.dtype != torch.float32):
            return score_ids(self.model, sequences, max_tokens)

    def score(self, prompts: Sequence[Sequence[Message]], replies: Sequence[str]) -> list[float]:
        """Scores of replies as texts; each is read as a finished reply, at its end-of-turn.

        Raises:
            DataError: a prompt with its reply is longer than the model's context.
        """
        sequences = [
            render_reply(self.tokenizer, prompt, reply).ids
            for prompt, reply in zip(prompts, replies, strict=True)
        ]
        return [float(score) for score in self.score_ids(sequences).tolist()]


class Ensemble:
    """Several reward models of one tokenizer; the score is the mean of theirs.

    Members differ in the seed of their head and of their data's order, so that where they disagree nothing in
    the data decides (over-optimisation shows there first). Each has its own zero: compare scores of members
    that were shifted to the same demonstrations.
    """

    def __init__(self, members: Sequence[RewardModel], name: str = "") -> None:
        """
        Raises:
            ConfigError: there are fewer than two members, or two read different tokens.
        """
        if len(members) < 2:
            raise ConfigError(
                f"an ensemble of {len(members)} is none", "--reward", "name at least two reward models"
            )
        for other in members[1:]:
            if other.tokenizer.fingerprint != members[0].tokenizer.fingerprint:
                raise ConfigError(
                    f"the reward models {members[0].name} and {other.name} have different tokenizers",
                    "--reward",
                    "make an ensemble of reward models that start from one model",
                )
        self.members: tuple[RewardModel, ...] = tuple(members)
        self.tokenizer: Tokenizer = members[0].tokenizer
        self.name = name or ",".join(member.name for member in members)

    def score_ids_each(self, sequences: Sequence[Sequence[int]], max_tokens: int = MAX_TOKENS) -> Tensor:
        """Every member's scores (members, n) float32; see `RewardModel.score_ids`."""
        return torch.stack([member.score_ids(sequences, max_tokens) for member in self.members])

    def score_ids(self, sequences: Sequence[Sequence[int]], max_tokens: int = MAX_TOKENS) -> Tensor:
        """Means over the members (n,) float32."""
        return self.score_ids_each(sequences, max_tokens).mean(0)

    def score(self, prompts: Sequence[Sequence[Message]], replies: Sequence[str]) -> list[float]:
        """Means over the members of the scores of replies as texts; see `RewardModel.score`."""
        sequences = [
            render_reply(self.tokenizer, prompt, reply).ids
            for prompt, reply in zip(prompts, replies, strict=True)
        ]
        return [float(score) for score in self.score_ids(sequences).tolist()]


class FunctionReward:
    """A function `f(prompts: list[list[dict]], replies: list[str]) -> list[float]` of the user's.

    Each prompt is a list of messages {"role": ..., "content": ...}.
    """

    def __init__(self, function: Callable[[list[list[dict[str, str]]], list[str]], Any], name: str) -> None:
        self.function, self.name = function, name

    def score(self, prompts: Sequence[Sequence[Message]], replies: Sequence[str]) -> list[float]:
        """Call the function once and check what it gives.

        Raises:
            ConfigError: it gives another number of scores, or one that is not a finite number.
        """
        if len(prompts) != len(replies):
            raise DataError(
                f"{len(prompts)} prompts but {len(replies)} replies", cure="give one reply to each prompt"
            )
        messages = [[{"role": m.role, "content": m.content} for m in prompt] for prompt in prompts]
        given = self.function(messages, list(replies))
        scores = given.tolist() if hasattr(given, "tolist") else given
        if not isinstance(scores, list | tuple) or len(scores) != len(replies):
            got = f"{len(scores)} scores" if isinstance(scores, list | tuple) else type(given).__name__
            raise ConfigError(
                f"the reward function gave {got} for {len(replies)} replies",
                where=f"--reward {self.name}",
                cure="return a list with one number for each reply, in the same order",
            )
        for record, score in enumerate(scores):
            number = isinstance(score, int | float) or hasattr(score, "__float__")
            if not number or not math.isfinite(float(score)):
                raise ConfigError(
                    f"the reward function gave {score!r} for record {record}, whose reply starts "
                    f"{replies[record][:40]!r}",
                    where=f"--reward {self.name}",
                    cure="return a finite number for every reply, empty and broken ones too",
                )
        return [float(score) for score in scores]


def reward_folders(spec: str) -> list[Path]:
    """The checkpoints that a `--reward` of folders means: one, or an ensemble's members in their order.

    A folder is a checkpoint, a finished run, or the run of `reward --members N`, which means all of them.

    Raises:
        ConfigError: a part is no folder.
        CheckpointError: there is no finished model in a folder.
    """
    parts = [spec] if Path(spec).is_dir() else [part.strip() for part in spec.split(",")]
    folders: list[Path] = []
    for part in parts:
        if not part or not Path(part).is_dir():
            raise ConfigError(
                f"a member of the ensemble is no folder: {part!r}",
                where=f"--reward {spec}",
                cure="name folders of reward models with commas between; a function can't be a member",
            )
        folders += [final_checkpoint(member) for member in _members(Path(part)) or [Path(part)]]
    return folders


def _members(folder: Path) -> list[Path]:
    """The members that the summary of a run of `reward --members N` names; none for another folder."""
    summary = folder / "summary.json"
    named = json.loads(summary.read_text(encoding="utf-8")).get("members") if summary.exists() else None
    return [folder / name for name in named] if isinstance(named, list) else []


def resolve_reward(spec: str) -> str:
    """The spec as it is, but of folders alone: these as their final checkpoints, with commas between."""
    return ",".join(map(str, reward_folders(spec))) if spec and kind_of(spec) == "models" else spec


def reward_models(spec: str) -> list[Path]:
    """Every checkpoint that the scores of a `--reward` depend on, those within a weighted sum too."""
    specs = [term.spec for term in terms_of(spec)] if kind_of(spec) == "sum" else [spec] if spec else []
    return [folder for one in specs if kind_of(one) == "models" for folder in reward_folders(one)]


def load_reward(spec: str, device: torch.device | str = "cpu", bases: Bases | None = None) -> Reward:
    """The reward that a `--reward` flag names; see `instructgpt.scoring.spec` for how it is written.

    Several folders with commas are an `Ensemble`, and so is the run folder of `reward --members N`. The
    module of a function is looked for in the current folder as well as among the installed ones. Whether a
    service is there is found out at once. Reward models take part in `bases`, see `RewardModel.load`.

    Raises:
        ConfigError: the spec names none of these, the function can't be imported, nobody answers at the URL,
            or the members of an ensemble have different tokenizers.
        CheckpointError: see `RewardModel.load`.
    """
    kind = kind_of(spec)
    if kind == "sum":
        terms = terms_of(spec)
        return WeightedSum([Part(t.name, t.weight, load_reward(t.spec, device, bases)) for t in terms])
    if kind == "verify":
        return Verify(spec)
    if kind == "service":
        service = ServiceReward(spec)
        service.connect()
        return service
    if kind == "models":
        models = [RewardModel.load(folder, device, bases) for folder in reward_folders(spec)]
        return models[0] if Path(spec).is_dir() and len(models) == 1 else Ensemble(models, spec)
    match = re.fullmatch(r"([A-Za-z_][\w.]*):([A-Za-z_]\w*)", spec)
    if match is None:
        raise ConfigError(
            f"no such folder, and not the name of a function: {spec!r}",
            where="--reward",
            cure=f"give {SPEC_HELP}",
        )
    module, function = match.groups()
    return FunctionReward(_import_function(module, function, spec), spec)


def _import_function(module: str, function: str, spec: str) -> Callable[..., Any]:
    where = f"--reward {spec}"
    try:
        with _current_folder_on_path():
            loaded = importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"the module of the reward function can't be imported: {error}",
            where=where,
            cure=f"run from the folder that holds {module.split('.')[0]}.py, or install what it needs",
        ) from error
    found = getattr(loaded, function, None)
    if not callable(found):
        raise ConfigError(
            f"module {module!r} has no function {function!r}",
            where=where,
            cure=f"define `def {function}(prompts, replies)` in {loaded.__file__}",
        )
    return found


@contextmanager
def _current_folder_on_path() -> Iterator[None]:
    """A console script does not see modules of the folder it is run in; for this import it does."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)
