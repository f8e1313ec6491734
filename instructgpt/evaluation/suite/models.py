"""The model under evaluation: a checkpoint of ours, a Hugging Face folder, or a server; asked in one way."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from instructgpt.errors import ConfigError
from instructgpt.evaluation.suite.task import Choices, Document, Generate, Generated, Likelihood

if TYPE_CHECKING:
    import torch

Done = Callable[[int], None]
Bos = Literal["auto", "yes", "no"]
TOKEN = "INSTRUCTGPT_EVAL_TOKEN"
"""Environment variable with the key of a server that wants one."""


class Handle(Protocol):
    """A model that answers questions; lists come back in the order asked.

    Attributes:
        name: as tables show it.
        spec: what the user named: a folder or a URL.
        chat: whether plain prompts go through the chat template, as one message of the user.
        cut: prompts so far that were too long and lost their beginning.
    """

    name: str
    spec: str
    chat: bool
    cut: int

    @property
    def identity(self) -> dict[str, str]:
        """What results depend on."""
        ...

    def choices(self, asks: Sequence[Choices], on_done: Done | None = None) -> list[tuple[Likelihood, ...]]:
        """The likelihood of each continuation; `on_done` is called with numbers of finished ones."""
        ...

    def documents(self, asks: Sequence[Document], on_done: Done | None = None) -> list[Likelihood]:
        """The likelihood of whole texts, every token predicted once."""
        ...

    def generate(
        self, asks: Sequence[Generate], keys: Sequence[int], on_done: Done | None = None
    ) -> list[Generated]:
        """Replies; `keys` name their random streams."""
        ...

    def loglikelihoods(self, contexts: Sequence[str], continuations: Sequence[str]) -> list[Likelihood]:
        """The likelihood of each continuation after the context beside it."""
        ...

    def close(self) -> None:
        """Give back what the model holds."""
        ...


def is_server(spec: str) -> bool:
    """Whether a model is named by URL."""
    return spec.startswith(("http://", "https://"))


def identify(spec: str) -> dict[str, str]:
    """What results of a model depend on, found without opening it.

    Raises:
        CheckpointError: no model is in the folder.
    """
    if is_server(spec):
        base, _, model = spec.partition("#")
        return {"server": base.rstrip("/"), "model": model}
    from instructgpt.runtime.checkpoint import final_checkpoint
    from instructgpt.runtime.files import hash_path

    return {"weights": hash_path(final_checkpoint(spec))}


def open_handle(
    spec: str,
    *,
    name: str = "",
    device: torch.device | str = "cpu",
    dtype: torch.dtype | None = None,
    chat: bool = False,
    bos: Bos = "auto",
    identity: dict[str, str] | None = None,
) -> Handle:
    """Open a model.

    Args:
        spec: checkpoint, stage folder or Hugging Face folder; or `http(s)://host:port/v1[#model]` of an
            OpenAI-compatible server, whose key is read from the environment variable INSTRUCTGPT_EVAL_TOKEN.
        name: as tables show it; empty takes the folder's name or the server's model.
        dtype: of the weights and the computation; None is float32.
        chat: see `Handle`.
        bos: whether texts begin with the token that begins a document; `auto` as the tokenizer's own rules
            say, and always for the tokenizers that we train.
        identity: of a folder where it is known already (see `identify`), so that it is not hashed twice.

    Raises:
        ConfigError, CheckpointError, ServiceError: it can't be opened.
    """
    if is_server(spec):
        from instructgpt.evaluation.suite.server import ServerModel

        return ServerModel.connect(spec, name=name, chat=chat, token=os.environ.get(TOKEN, ""))
    from instructgpt.evaluation.suite.local import LocalModel

    return LocalModel.load(spec, name=name, device=device, dtype=dtype, chat=chat, bos=bos, identity=identity)


def named_models(specs: Sequence[str]) -> dict[str, str]:
    """Name -> what was named, in order; each part may be written name=folder or name=URL.

    Raises:
        ConfigError: there is none, or two have one name.
    """
    found: dict[str, str] = {}
    for part in specs:
        name, equals, spec = part.partition("=")
        if is_server(part) or not equals:
            spec = part
            name = part.partition("#")[2] or part.split("://")[-1] if is_server(part) else Path(part).name
        if name in found:
            raise ConfigError(f"two models are called {name}", "CHECKPOINT", "name them: a=FOLDER b=FOLDER")
        found[name] = spec
    if not found:
        raise ConfigError(
            "no model was named", "CHECKPOINT", "give checkpoints: instructgpt eval FOLDER --suite ..."
        )
    return found
