"""Text of a reply while it is drawn, with stop strings that never leak, not even in part (field fault 43)."""

from __future__ import annotations

from collections.abc import Sequence

from instructgpt.errors import ConfigError
from instructgpt.text.tokenizer import StreamDecoder, Tokenizer


class StopFilter:
    """Passes text on until a stop string is complete; text that may become one is held back.

    The match that ends first wins, and of those that end together the longest: what comes out does not depend
    on how the text was cut into pieces.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        """Raises `ConfigError` for an empty stop string, which would match everywhere."""
        if any(not stop for stop in stops):
            raise ConfigError(
                "a stop string is empty", "--stop", "give at least one character, or leave it out"
            )
        self._stops = tuple(stops)
        self._held = ""
        self.matched: str | None = None
        """The stop string that ended the text, if one did; all text after it is dropped."""

    def push(self, text: str) -> str:
        """More text in; the text that is certain to be no part of a stop string out."""
        if not self._stops:
            return text
        if self.matched is not None:
            return ""
        self._held += text
        found = [
            (self._held.find(stop) + len(stop), -len(stop), stop)
            for stop in self._stops
            if stop in self._held
        ]
        if found:
            end, _, self.matched = min(found)
            before, self._held = self._held[: end - len(self.matched)], ""
            return before
        keep = self._possible_start()
        passed, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return passed

    def finish(self) -> str:
        """The text held back, now that no more comes."""
        rest, self._held = self._held, ""
        return rest

    def _possible_start(self) -> int:
        """Length of the longest end of the held text that is the beginning of a stop string."""
        longest = max((len(stop) for stop in self._stops), default=1) - 1
        for length in range(min(longest, len(self._held)), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stops):
                return length
        return 0


class TextStream:
    """Ids in, text out: whole characters only, and nothing of a stop string.

    What `push` and `finish` gave, joined, is the reply's text up to the first stop string.
    """

    def __init__(self, tokenizer: Tokenizer, stops: Sequence[str] = ()) -> None:
        self._decoder = StreamDecoder(tokenizer)
        self._filter = StopFilter(stops)

    @property
    def matched(self) -> str | None:
        """The stop string that ended the text, None if none has."""
        return self._filter.matched

    def push(self, index: int) -> str:
        """Text that is certain now that this id has come."""
        return self._filter.push(self._decoder.push(index))

    def finish(self) -> str:
        """The rest, at the end of the reply."""
        return self._filter.push(self._decoder.finish()) + self._filter.finish()
