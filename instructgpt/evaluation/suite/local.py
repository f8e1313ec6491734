"""A model on this machine, asked questions in text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch

from instructgpt.evaluation.suite.branches import likelihoods
from instructgpt.evaluation.suite.models import Bos, Done
from instructgpt.evaluation.suite.replies import draw
from instructgpt.evaluation.suite.task import Choices, Document, Generate, Generated, Likelihood
from instructgpt.evaluation.suite.trees import Ids
from instructgpt.generation.engine import Request
from instructgpt.generation.loading import open_model
from instructgpt.model.heads import LanguageModel
from instructgpt.runtime.checkpoint import final_checkpoint
from instructgpt.runtime.files import hash_path
from instructgpt.text.chat import Message, render_prompt
from instructgpt.text.tokenizer import SPECIALS, Tokenizer

_LEAST_PROMPT = 16  # tokens of a prompt that a reply's length leaves room for, whatever is asked


class LocalModel:
    """A language model with its tokenizer; see `models.Handle` for the methods."""

    def __init__(
        self,
        model: LanguageModel,
        tokenizer: Tokenizer,
        *,
        name: str = "model",
        spec: str = "",
        identity: dict[str, str] | None = None,
        chat: bool = False,
        bos: Bos = "auto",
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.name, self.spec, self.chat = name, spec, chat
        self.cut = 0
        self._identity = identity or {}
        # Models that we pretrain have never seen a document without bos.
        ours = tokenizer.special_tokens.get("bos_token") == SPECIALS[1]
        wanted = ours or tokenizer.begins_with_bos if bos == "auto" else bos == "yes"
        begins = wanted and tokenizer.bos_id is not None
        self._start: Ids = (cast(int, tokenizer.bos_id),) if begins else ()
        """What stands before every plain text."""
        self._beginning: Ids = (tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id,)
        """What a text follows that has no context."""

    @classmethod
    def load(
        cls,
        spec: str,
        *,
        name: str = "",
        device: torch.device | str = "cpu",
        dtype: torch.dtype | None = None,
        chat: bool = False,
        bos: Bos = "auto",
        identity: dict[str, str] | None = None,
    ) -> LocalModel:
        """Open a checkpoint, a stage's folder or a Hugging Face folder; see `models.open_handle`."""
        path = final_checkpoint(spec)
        model, tokenizer = open_model(path, device, dtype or torch.float32)
        return cls(
            model,
            tokenizer,
            name=name or Path(spec).name,
            spec=spec,
            identity=identity or {"weights": hash_path(path)},
            chat=chat,
            bos=bos,
        )

    @property
    def identity(self) -> dict[str, str]:
        """A hash of the model's files."""
        return self._identity

    def choices(self, asks: Sequence[Choices], on_done: Done | None = None) -> list[tuple[Likelihood, ...]]:
        """See `models.Handle`."""
        pairs = [(ask.context, text) for ask in asks for text in ask.continuations]
        found = iter(likelihoods(self.model, self._encode_pairs(pairs), on_done=on_done))
        return [tuple(next(found) for _ in ask.continuations) for ask in asks]

    def loglikelihoods(self, contexts: Sequence[str], continuations: Sequence[str]) -> list[Likelihood]:
        """See `models.Handle`."""
        pairs = list(zip(contexts, continuations, strict=True))
        return likelihoods(self.model, self._encode_pairs(pairs))

    def _encode_pairs(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[Ids, Ids]]:
        return self._encode_chat(pairs) if self.chat else self._encode_plain(pairs)

    def _encode_chat(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[Ids, Ids]]:
        """The context as the user's message, the continuation as what the assistant begins with."""
        contexts = {
            context: self._chat_ids(context) for context in dict.fromkeys(c for c, _ in pairs) if context
        }
        after = self.tokenizer.encode_batch([text.lstrip() if context else text for context, text in pairs])
        return [
            (contexts[context] if context else self._beginning, tuple(ids))
            for (context, _), ids in zip(pairs, after, strict=True)
        ]

    def _chat_ids(self, text: str) -> Ids:
        return tuple(render_prompt(self.tokenizer, [Message("user", text)]))

    def _encode_plain(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[Ids, Ids]]:
        """Context and continuation encoded together and cut where the context alone would end, its trailing
        blanks belonging to the continuation (lm-evaluation-harness, `TemplateLM._encode_pair`)."""
        contexts = list(dict.fromkeys(context.rstrip() for context, _ in pairs))
        encode = self.tokenizer.encode_batch
        lengths = {text: len(ids) for text, ids in zip(contexts, encode(contexts), strict=True)}
        wholes = encode([context + text for context, text in pairs])
        found: list[tuple[Ids, Ids]] = []
        for (context, text), ids in zip(pairs, wholes, strict=True):
            length = lengths[context.rstrip()]
            if length == 0:
                found.append((self._beginning, tuple(ids)))
            elif length < len(ids):
                found.append(((*self._start, *ids[:length]), tuple(ids[length:])))
            else:  # the last token of the context swallows the continuation
                found.append(((*self._start, *encode([context])[0]), tuple(encode([text])[0])))
        return found

    def documents(self, asks: Sequence[Document], on_done: Done | None = None) -> list[Likelihood]:
        """See `models.Handle`. A text longer than the model's context is cut into windows of that length,
        each seeing the last token before it (lm-evaluation-harness, `loglikelihood_rolling`)."""
        encoded = self.tokenizer.encode_batch([ask.text for ask in asks])
        longest = self.model.config.context
        pairs: list[tuple[Ids, Ids]] = []
        counts = []
        for ids in encoded:
            before = self._beginning
            counts.append(-(-len(ids) // longest))
            for start in range(0, len(ids), longest):
                window = tuple(ids[start : start + longest])
                pairs.append((before, window))
                before = window[-1:]
        found = iter(likelihoods(self.model, pairs, on_done=on_done))
        results = []
        for count in counts:
            windows = [next(found) for _ in range(count)]
            results.append(
                Likelihood(
                    sum(window.nats for window in windows),
                    sum(window.tokens for window in windows),
                    all(window.greedy for window in windows),
                )
            )
        return results

    def generate(
        self, asks: Sequence[Generate], keys: Sequence[int], on_done: Done | None = None
    ) -> list[Generated]:
        """See `models.Handle`. A prompt that leaves too little room for the reply loses its beginning."""
        requests = [self._request(ask, key) for ask, key in zip(asks, keys, strict=True)]
        return draw(self.model, self.tokenizer, requests, [ask.stop for ask in asks], on_done)

    def _request(self, ask: Generate, key: int) -> Request:
        if isinstance(ask.prompt, str):
            plain = not self.chat
            ids = (*self._start, *self.tokenizer.encode(ask.prompt)) if plain else self._chat_ids(ask.prompt)
        else:
            ids = tuple(render_prompt(self.tokenizer, ask.prompt))
        context = self.model.config.context
        most = max(1, min(ask.max_new, context - _LEAST_PROMPT))
        if len(ids) > context - most:
            self.cut += 1
            ids = ids[-(context - most) :]
        return Request(
            ids or self._beginning,
            key,
            most,
            ask.temperature,
            top_p=ask.top_p,
            stop_ids=self.tokenizer.stop_ids,
        )

    def close(self) -> None:
        """Nothing to hang up; the memory goes with the object."""
