"""Continuous batching: many replies at once, each leaving when it ends and making room for the next.

Every step feeds one token of each active row through the model and draws the next one. Rows are kept in
slots 0..R-1 of the cache (the last row moves into a hole), so that reading the cache copies nothing. Short
prompts are read in the pass in which the other rows go on. Others are read before, but for their last token,
which goes through the first decode step; so n samples of one prompt are one prefill and n - 1 copies.

Legend: S slots, R active rows, V vocabulary, W room for the ids of a reply, N tokens of a pass.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from instructgpt.data.collate import pack_ids
from instructgpt.generation.ahead import Guesser, keep, lay_out
from instructgpt.generation.prefill import Prefill
from instructgpt.generation.processing import Processing
from instructgpt.generation.requests import Completion, Request, TokenLogprobs, check_room
from instructgpt.generation.room import CACHE_BYTES, engine_dtype, rows_for_memory
from instructgpt.generation.rows import Rows
from instructgpt.generation.sampling import keyed_uniform, sample
from instructgpt.generation.settings_of_rows import Agreed, Stops
from instructgpt.generation.shapes import fill_up
from instructgpt.model.cache import KVCache
from instructgpt.model.heads import LanguageModel

__all__ = ["CACHE_BYTES", "Completion", "Engine", "Request", "Step", "generate", "rows_for_memory"]

MAX_ACTIVE = 256
"""Rows in one step unless told otherwise; the cache's size may allow fewer."""
PREFILL_TOKENS = 2048
"""Prompt tokens in one forward pass."""


@dataclass
class Step:
    """What one step brought."""

    tokens: list[tuple[int, int]] = field(default_factory=list)
    """(request, id) of every active row, several of one in their order; empty unless asked for."""
    finished: list[tuple[int, Completion]] = field(default_factory=list)
    """(request, completion) of the rows that ended."""
    logprobs: dict[int, TokenLogprobs] = field(default_factory=dict)
    """By request, for those with `top_logprobs`: the model's own view of the id drawn."""


class Engine:
    """Draws replies step by step; requests may come at any time.

    Use `generate` for a list of requests. The engine itself is for those who serve: `submit`, then `step`
    while `busy`.
    """

    def __init__(
        self,
        model: LanguageModel,
        slots: int,
        capacity: int = 0,
        *,
        want_tokens: bool = False,
        few_shapes: bool = False,
        lookup: int = 0,
    ) -> None:
        """Args:
        slots: largest number of rows in one step.
        capacity: tokens that a slot of the cache has room for at first; it grows.
        want_tokens: report every drawn id in `Step.tokens`, not only finished replies.
        few_shapes: fill prompts up to round numbers of tokens that nobody reads (see `shapes`); for those
            who run for long, as oneDNN makes code for every new shape (milliseconds) and keeps it.
        lookup: ids to guess ahead from a text's own past (see `ahead`) while few rows are active; 0 = none.
        """
        weight = model.unembedding
        self.model, self.want_tokens = model, want_tokens
        self._device = weight.device
        self._slots = slots
        # Filling goes into a slot of its own, the last one.
        rows = slots + few_shapes
        self._cache = KVCache(model.config, rows, max(1, capacity), engine_dtype(model, rows), weight.device)
        self._prefill = Prefill(model, self._cache, slots if few_shapes else None, PREFILL_TOKENS)
        self._guesser = Guesser(lookup)
        # Sampling needs float64, which Apple's GPUs lack.
        sampling_device = torch.device("cpu") if weight.device.type == "mps" else weight.device
        self._rows = Rows(slots, sampling_device)
        self._waiting: deque[tuple[int, Request]] = deque()
        self._active: list[tuple[int, Request]] = []  # of row 0, 1, ... R - 1
        self._submitted = 0
        self._longest = 0  # tokens of the longest row that may come to be
        self._unread: list[tuple[int, ...]] = []  # what the last rows have to read in the next pass
        self._round = few_shapes
        self._agreed = Agreed([])
        self._processing = Processing([], sampling_device)
        self._stops = Stops(weight.shape[0], sampling_device)

    @property
    def busy(self) -> bool:
        """Whether anything is active or waiting."""
        return bool(self._active or self._waiting)

    @property
    def free(self) -> int:
        """Slots that a request could take now."""
        return self._slots - len(self._active) - len(self._waiting)

    def submit(self, request: Request) -> int:
        """Queue a request and return its number (0, 1, ... in order of submission).

        Raises:
            DataError: the prompt is empty, or prompt and reply may outgrow the model's context.
        """
        number = self._submitted
        check_room(self.model.config, len(request.prompt_ids), request.max_new, f"request {number}")
        self._submitted += 1
        self._longest = max(self._longest, len(request.prompt_ids) + request.max_new)
        self._waiting.append((number, request))
        return number

    @torch.inference_mode()
    def cancel(self, number: int) -> None:
        """Drop a request, waiting or active; unknown and finished ones are ignored."""
        self._waiting = deque(entry for entry in self._waiting if entry[0] != number)
        self._remove([row for row, (other, _) in enumerate(self._active) if other == number])

    @torch.inference_mode()
    def pause(self, number: int) -> Request:
        """Take an active request out; what is returned, submitted again, goes on where this one was.

        Its draws stay the same (they are keyed by position); what it had read is read again.

        Raises:
            KeyError: the request is not active.
        """
        row = next((row for row, (other, _) in enumerate(self._active) if other == number), None)
        if row is None:
            raise KeyError(number)
        request, length = self._active[row][1], int(self._rows.produced[row])
        drawn = tuple(self._rows.ids[row, :length].tolist())
        logprobs = tuple(self._rows.logprobs[row, :length].tolist())
        self._remove([row])
        return replace(request, drawn=drawn, drawn_logprobs=logprobs)

    @torch.inference_mode()
    def step(self) -> Step:
        """Draw one id for every active row, or several where guesses were right, after waiting requests have
        taken free slots."""
        self._admit()
        if not self._active:
            return Step()
        guesses = self._guess()
        result = Step()
        last = self._draw_several(guesses, result) if guesses else self._draw(result)
        rows, state = len(self._active), self._rows
        stopped = self._stops.end(state.stop_set[:rows], last)
        # The one wait for a device:
        done = (stopped | (state.produced[:rows] >= state.max_new[:rows])).nonzero()[:, 0]
        if len(done):
            result.finished = self._collect(done, stopped)
            self._remove(done.tolist())
        return result

    def _draw(self, result: Step) -> Tensor:
        """One id for each row; returns them (R,)."""
        rows, state, device = len(self._active), self._rows, self._device
        if self._unread:
            hidden = self._read_along()
        else:
            self._grow(int(self._cache.lengths[:rows].max()) + 1)
            positions = self._cache.lengths[:rows].to(device)
            hidden = self.model(state.next_id[:rows].to(device), positions, [1] * rows, cache=self._cache)
        logits = self.model.logits(hidden).to(state.device)  # (R, V)
        produced = state.produced[:rows]
        uniforms = keyed_uniform(state.key[:rows], produced)
        processed = self._processing.apply(logits, state)
        ids, logprobs = sample(processed, uniforms, *self._agreed.of(state, rows))
        state.next_id[:rows] = ids
        row = torch.arange(rows, device=state.device)
        state.ids[row, produced] = ids
        state.logprobs[row, produced] = logprobs
        produced += 1
        for place, view in self._processing.report(logits, ids).items():
            result.logprobs[self._active[place][0]] = view
        if self.want_tokens or self._guesser.may(rows):
            numbers = (number for number, _ in self._active)
            drawn = list(zip(numbers, ids.tolist(), strict=True))
            self._guesser.drawn(drawn)
            result.tokens = drawn if self.want_tokens else []
        return ids

    def _read_along(self) -> Tensor:
        """One pass over the last id of the rows at work and the whole prompts of those behind them; returns
        the hidden state of each row's last token (R, D)."""
        prompts, self._unread = self._unread, []
        old, cache = len(self._active) - len(prompts), self._cache
        self._grow(max(int(cache.lengths[:old].max()) if old else 0, *map(len, prompts)) + 1)
        # The slot behind the last row is free, or the spare one.
        filling = fill_up([(0,) * old, *prompts], cache.capacity) if self._round else ()
        ids, positions, lengths = pack_ids([*prompts, filling] if filling else prompts)
        if filling:
            cache.reset(len(self._active))
        ids = torch.cat((self._rows.next_id[:old].cpu(), ids)).to(self._device)
        positions = torch.cat((cache.lengths[:old], positions)).to(self._device)
        lengths = [1] * old + lengths
        last = torch.tensor(lengths).cumsum(0)[: len(self._active)] - 1
        fresh = len(lengths) - old
        return self.model(ids, positions, lengths, cache, rows=last.to(self._device), fresh=fresh)

    def _guess(self) -> list[list[int]]:
        """Guesses for each row; empty where there are none, or where a draw depends on the ones before it."""
        if self._unread or not self._processing.plain:
            return []
        rows, state = len(self._active), self._rows
        if not self._guesser.may(rows):
            self._guesser.forget([])  # what is drawn now would be missing there
            return []
        produced = state.produced[:rows].tolist()
        left = (state.max_new[:rows] - state.produced[:rows]).tolist()
        return self._guesser.guesses(self._active, left, lambda row: state.ids[row, : produced[row]].tolist())

    def _draw_several(self, guesses: list[list[int]], result: Step) -> Tensor:
        """What follows from each row's last id and from the guesses behind it, as far as they are right;
        returns the last id of each row (R,)."""
        rows, state, device = len(self._active), self._rows, self._device
        layout = lay_out(state.next_id[:rows].cpu(), guesses)
        before = self._cache.lengths[:rows].clone()
        self._grow(int((before + layout.counts).max()))
        positions = (before[layout.rows] + layout.offsets).to(device)
        hidden = self.model(layout.ids.to(device), positions, layout.counts.tolist(), cache=self._cache)
        logits = self.model.logits(hidden).to(state.device)  # (N, V)
        row, offset = layout.rows.to(state.device), layout.offsets.to(state.device)
        place = state.produced[:rows][row] + offset
        uniforms = keyed_uniform(state.key[:rows][row], place)
        ids, logprobs = sample(logits, uniforms, *self._agreed.of(state, rows, row))
        drawn = ids.tolist()
        kept = keep(drawn, guesses, [request.stop_ids for _, request in self._active])
        count = torch.tensor(kept)
        self._cache.lengths[:rows] = before + count  # wrong guesses are overwritten
        count = count.to(state.device)
        good = (offset < count[row]).nonzero()[:, 0]
        state.ids[row[good], place[good]] = ids[good]
        state.logprobs[row[good], place[good]] = logprobs[good]
        fresh = [
            (number, index)
            for (number, _), start, many in zip(self._active, layout.starts.tolist(), kept, strict=True)
            for index in drawn[start : start + many]
        ]
        self._guesser.drawn(fresh)
        result.tokens = fresh if self.want_tokens else []
        last = ids[layout.starts.to(state.device) + count - 1]
        state.next_id[:rows] = last
        state.produced[:rows] += count
        return last

    def _collect(self, done: Tensor, stopped: Tensor) -> list[tuple[int, Completion]]:
        """Completions of rows `done`, in one transfer a column."""
        state = self._rows
        lengths = state.produced[done].tolist()
        width = max(lengths)
        columns = zip(
            done.tolist(),
            lengths,
            state.ids[done, :width].tolist(),
            state.logprobs[done, :width].tolist(),
            stopped[done].tolist(),
            strict=True,
        )
        return [
            (self._active[row][0], Completion(ids[:length], logprobs[:length], ended))
            for row, length, ids, logprobs, ended in columns
        ]

    def _remove(self, holes: Sequence[int]) -> None:
        """Rows end: the last rows move into their holes, so that 0..R-1 stay in use."""
        left = len(self._active) - len(holes)
        targets = [row for row in holes if row < left]
        gone = set(holes)
        sources = [row for row in range(left, len(self._active)) if row not in gone]
        if targets:
            self._cache.move(sources, targets)
            self._rows.move(sources, targets)
            for source, target in zip(sources, targets, strict=True):
                self._active[target] = self._active[source]
        del self._active[left:]
        self._agree()

    def _admit(self) -> None:
        """Waiting requests take free slots.

        A prefill of a few rows costs almost as much as one of many, so it waits until an eighth of the slots
        is free.
        """
        free = self._slots - len(self._active)
        if not self._waiting or free < min(len(self._waiting), max(1, self._slots // 8)):
            return
        first = len(self._active)
        donors = {request.prompt_ids: row for row, (_, request) in enumerate(self._active)}
        admitted = [self._waiting.popleft() for _ in range(min(free, len(self._waiting)))]
        fresh: list[int] = []
        sources: list[int] = []
        targets: list[int] = []
        for row, (_, request) in enumerate(admitted, start=first):
            donor = donors.setdefault(request.prompt_ids, row)
            if donor == row or request.drawn:
                fresh.append(row)
            else:
                sources.append(donor)
                targets.append(row)
        present = [(row, request.prompt_ids) for row, (_, request) in enumerate(self._active)]
        self._active += admitted
        self._cache.reset(torch.tensor(fresh, dtype=torch.int64))
        texts = [request.read for _, request in admitted]
        if not targets and self._prefill.few(texts):
            self._unread = texts
        else:
            read = [row for row in fresh if len(self._active[row][1].read) > 1]
            prefixes = [self._active[row][1].read[:-1] for row in read]
            self._grow(max(map(len, prefixes), default=0) + 1)
            self._prefill.read(read, prefixes, present)
        if targets:
            self._cache.move(sources, targets)
            # A donor may have gone on to its reply: what lies beyond the prompt is not read.
            prompts = [len(self._active[row][1].prompt_ids) - 1 for row in targets]
            self._cache.lengths[torch.tensor(targets)] = torch.tensor(prompts)
        self._agree()
        requests = [request for _, request in admitted]
        self._rows.widen(max(request.max_new for request in requests))
        self._rows.fill(first, requests, self._stops.places([request.stop_ids for request in requests]))

    def _grow(self, needed: int) -> None:
        if needed > self._cache.capacity:
            self._cache.grow(max(needed, min(2 * self._cache.capacity, self._longest)))

    def _agree(self) -> None:
        """Note what the active rows have in common; called when rows come or go, not at every step."""
        requests = [request for _, request in self._active]
        self._agreed = Agreed(requests)
        if not self._processing.plain or any(request.wishes for request in requests):
            self._processing = Processing(requests, self._rows.device)
        self._guesser.forget(self._active)


def generate(
    model: LanguageModel,
    requests: Sequence[Request],
    *,
    max_active: int = MAX_ACTIVE,
    on_token: Callable[[int, int], None] | None = None,
    on_finish: Callable[[int, Completion], None] | None = None,
    lookup: int = 0,
) -> list[Completion]:
    """Draw a reply to each request; results are in the order of the requests.

    Neither the order of the requests nor `max_active` changes a reply. (That is: in float32, unless a drawn
    number falls into the rounding difference of about 1e-6 between batch shapes.)

    Args:
        max_active: rows in one step; fewer are used where the cache would exceed `CACHE_BYTES`.
        on_token: called with (request, id) for every id, as it is drawn.
        on_finish: called with (request, completion) as each reply ends.
        lookup: see `Engine`; no reply changes.

    Raises:
        DataError: see `Engine.submit`.
    """
    if not requests:
        return []
    for number, request in enumerate(requests):
        check_room(model.config, len(request.prompt_ids), request.max_new, f"request {number}")
    # Long rows first: they set the size of the cache at once, rows of like length step together, and the end
    # of the run is not spent waiting for a late long one. Equal prompts come together, to be read once.
    order = sorted(
        range(len(requests)),
        key=lambda i: (-len(requests[i].prompt_ids) - requests[i].max_new, requests[i].prompt_ids),
    )
    longest = len(requests[order[0]].prompt_ids) + requests[order[0]].max_new
    slots = min(max_active, len(requests), rows_for_memory(model, longest))
    engine = Engine(model, slots, longest, want_tokens=on_token is not None, lookup=lookup)
    for index in order:
        engine.submit(requests[index])
    completions: dict[int, Completion] = {}
    while engine.busy:
        step = engine.step()
        if on_token is not None:
            for number, token in step.tokens:
                on_token(order[number], token)
        for number, completion in step.finished:
            completions[order[number]] = completion
            if on_finish is not None:
                on_finish(order[number], completion)
    return [completions[index] for index in range(len(requests))]
