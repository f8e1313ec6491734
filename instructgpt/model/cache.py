"""Keys and values of what a generation has read so far; owned by the caller, one slot a row."""

from __future__ import annotations

import math
import mmap
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from instructgpt.model.config import ModelConfig


@dataclass(frozen=True)
class CachePlan:
    """Where the new tokens of one cached forward pass go and what they see; the same for every layer."""

    slots: Tensor | None
    """(R,) slot of each row that is read; None when they are 0..R-1, so that reading is a view and copies
    nothing."""
    rows: int
    """Rows that are read; the rest of the pass is fresh."""
    tokens: int
    """Their new tokens, the first of the pass."""
    first: int
    """First position read: 0, or with a window the first that some new token sees."""
    seen: int
    """End of what is read, the longest row after this step or a little more; T = seen - first."""
    write: Tensor
    """(N * kv_heads,) place of every new value in the cache as (slots * kv_heads * capacity, head_dim)."""
    new_slots: Tensor
    """(N,) slot of every new token."""
    new_places: Tensor
    """(N,) its place in there."""
    bias: Tensor | None
    """(R, 1, new, T) 0 or -inf, added to the scores; None when every row sees all T positions."""
    gather: Tensor | None
    """(R, new) place of each row's new tokens in the packed batch; None when every row has exactly one."""
    restore: Tensor
    """(N,) place of every packed token in that rectangle."""
    empty: bool
    """No row has a prefix: the new tokens see only their own document (prefill)."""
    alone: tuple[int, int] | None = None
    """(slot, first place) where all new tokens are one row's, on a CPU."""

    def read(self, layer: Tensor) -> Tensor:
        """Keys or values of one layer (slots, kv_heads, capacity, head_dim) -> (R, kv_heads, T, head_dim)."""
        if self.slots is None:
            return layer[: self.rows, :, self.first : self.seen]
        return layer[:, :, self.first : self.seen].index_select(0, self.slots)

    def store(self, layer: Tensor, new: Tensor) -> None:
        """Write new keys or values (N, kv_heads, head_dim) into one layer of the cache, in place."""
        if self.alone is not None:
            slot, place = self.alone
            # Without a table of places: 64 tokens of SmolLM2-135M are read in 42 ms instead of 47.
            layer[slot, :, place : place + len(new)] = new.transpose(0, 1)
            return
        new, size = new.to(layer.dtype), new.shape[-1]
        if layer.is_contiguous():
            layer.view(-1, size).index_copy_(0, self.write, new.reshape(-1, size))
        else:  # keys on a CPU
            layer.permute(0, 2, 1, 3).index_put_((self.new_slots, self.new_places), new)


_STEP = 32
"""In half precision on a CPU as many places are looked at as are a multiple of this: oneDNN makes code for
every new size, which took 4 ms of each token of a single reply of SmolLM2-135M."""
_FEW = 8
"""Rows that are moved one by one."""
_MAPPED = 1 << 20
"""Bytes from which on memory is mapped instead of filled."""


def _zeros(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros, not empty memory: unread places are multiplied by weight 0, and 0 * NaN would be NaN.

    On a CPU they are a mapping of their own, whose pages take memory when they are first written: a cache can
    be made as large as it may ever become, and costs what is in it. Nothing is copied to make it grow.
    """
    size = math.prod(shape) * dtype.itemsize
    if device.type != "cpu" or size < _MAPPED:
        return torch.zeros(shape, dtype=dtype, device=device)
    return torch.frombuffer(mmap.mmap(-1, size), dtype=dtype).view(shape)


def _new_keys(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Zeros of this shape; on a CPU with the last two dimensions the other way round in memory."""
    if device.type != "cpu":
        return _zeros(shape, dtype, device)
    return _zeros((*shape[:3], shape[4], shape[3]), dtype, device).transpose(-1, -2)


class KVCache:
    """Preallocated keys and values, (layers, slots, kv_heads, capacity, head_dim), and how full each slot is.

    On a CPU room that was never used takes no memory, so `capacity` may be what the longest row can become.

    On a CPU the places of one number of a key lie behind one another: scores are sums along them, and in
    bfloat16, where a transposed product is slow, decode attention takes half the time (CPU ms of 12 layers,
    32 rows, 12 heads of 64, 129 places, one thread: 46 against 27; float32 34 against 30).

    `lengths` (slots,) int64 lives on the CPU: the caller schedules with it, and reading it never waits for a
    device.
    """

    def __init__(
        self,
        config: ModelConfig,
        slots: int,
        capacity: int,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        shape = (config.layers, slots, config.kv_heads, capacity, config.head_dim)
        self.keys = _new_keys(shape, dtype, torch.device(device))
        self.values = _zeros(shape, dtype, torch.device(device))
        self.lengths = torch.zeros(slots, dtype=torch.int64)
        self.window = config.window

    @property
    def slots(self) -> int:
        """Number of rows that fit."""
        return self.keys.shape[1]

    @property
    def capacity(self) -> int:
        """Tokens that fit into one slot."""
        return self.keys.shape[3]

    def reset(self, slot_indices: Tensor | Sequence[int] | int) -> None:
        """Empty these slots."""
        self.lengths[torch.as_tensor(slot_indices)] = 0

    def move(self, source: int | Sequence[int], target: int | Sequence[int]) -> None:
        """Copy rows: slot `target` becomes what slot `source` is (one to one, or one to many; no target is a
        source)."""
        sources = torch.as_tensor(source).reshape(-1)
        targets = torch.as_tensor(target).reshape(-1)
        sources = sources.expand(targets.shape)
        filled = int(self.lengths[sources].max())
        for stored in (self.keys, self.values):
            if len(targets) <= _FEW and stored.device.type == "cpu":  # row by row, without a copy between
                for one, other in zip(sources.tolist(), targets.tolist(), strict=True):
                    stored[:, other, :, :filled] = stored[:, one, :, :filled]
                continue
            stored[:, targets.to(stored.device), :, :filled] = stored[
                :, sources.to(stored.device), :, :filled
            ]
        self.lengths[targets] = self.lengths[sources]

    def grow(self, capacity: int) -> None:
        """Give every slot room for `capacity` tokens; what is stored stays. Never shrinks."""
        extra = capacity - self.capacity
        if extra <= 0:
            return
        filled, shape = self.capacity, (*self.keys.shape[:3], capacity, self.keys.shape[4])
        keys = _new_keys(shape, self.keys.dtype, self.keys.device)
        values = _zeros(shape, self.values.dtype, self.values.device)
        keys[:, :, :, :filled], values[:, :, :, :filled] = self.keys, self.values
        self.keys, self.values = keys, values

    def plan(self, lengths: Sequence[int], slots: Tensor | None, fresh: int = 0) -> CachePlan:
        """Lay out one forward pass that appends lengths[r] tokens to slot slots[r] (default: slots 0..R-1).

        fresh: the last so many, not all, go into empty slots; they are written, and not read.

        Raises ValueError when a row would not fit: the caller schedules and must `grow` first.
        """
        device = self.keys.device
        every = torch.arange(len(lengths)) if slots is None else slots.to("cpu", torch.int64)
        contiguous = slots is None or bool(torch.equal(every, torch.arange(len(lengths))))
        all_before, all_added = self.lengths[every], torch.tensor(lengths)
        if (most := int((all_before + all_added).max())) > self.capacity:
            raise ValueError(f"a row of {most} tokens does not fit a cache of capacity {self.capacity}")
        rows = len(lengths) - fresh
        lengths, chosen = lengths[:rows], every[:rows]
        before, added = all_before[:rows], all_added[:rows]  # (R,)
        after = before + added
        seen = int(after.max())
        if self.keys.dtype.itemsize == 2 and device.type == "cpu":
            seen = min(self.capacity, -(-seen // _STEP) * _STEP)
        kv_heads, new = self.keys.shape[2], max(lengths)
        single = new == 1
        if single:
            row = restore = torch.arange(rows)
            gather, place = None, before
        else:
            row = torch.repeat_interleave(torch.arange(rows), added)  # (N,)
            starts = added.cumsum(0) - added
            within = torch.arange(row.numel()) - starts[row]
            place = before[row] + within
            restore = row * new + within
            gather = starts[:, None] + torch.minimum(torch.arange(new), added[:, None] - 1)  # (R, new)
        heads = torch.arange(kv_heads)
        new_slots, new_places = chosen[row], place
        if fresh:
            behind = all_added[rows:]
            within = torch.arange(int(behind.sum())) - (behind.cumsum(0) - behind).repeat_interleave(behind)
            new_slots = torch.cat((new_slots, every[rows:].repeat_interleave(behind)))
            new_places = torch.cat((new_places, within))
        write = ((new_slots[:, None] * kv_heads + heads) * self.capacity + new_places[:, None]).view(-1)
        first = 0 if self.window is None else max(0, int(before.min()) + 1 - self.window)
        bias = None
        if not single or bool((after != seen).any()):
            last = before[:, None] + torch.arange(new)  # (R, new) the last position each new token sees
            places = torch.arange(first, seen)
            looks = places <= last[:, :, None]  # (R, new, T)
            if self.window is not None:
                looks &= places > last[:, :, None] - self.window
            bias = torch.zeros(looks.shape, dtype=self.keys.dtype).masked_fill_(~looks, float("-inf"))[
                :, None
            ]
        return CachePlan(
            slots=None if contiguous else chosen.to(device),
            rows=rows,
            tokens=place.numel(),
            first=first,
            seen=seen,
            write=write.to(device),
            new_slots=new_slots.to(device),
            new_places=new_places.to(device),
            bias=None if bias is None else bias.to(device),
            gather=None if gather is None else gather.to(device),
            restore=restore.to(device),
            empty=not bool(all_before.any()),
            alone=(int(every[0]), int(all_before[0])) if len(every) == 1 and device.type == "cpu" else None,
        )

    def advance(self, lengths: Sequence[int], slots: Tensor | None) -> None:
        """Count the tokens that a finished forward pass has appended."""
        chosen = torch.arange(len(lengths)) if slots is None else slots.to("cpu", torch.int64)
        self.lengths[chosen] += torch.tensor(lengths)
