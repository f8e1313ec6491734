"""Times and lengths of time in words."""

from __future__ import annotations

from datetime import UTC, datetime

from instructgpt.labelling.app.texts import Translator

_UNITS = (("day", 86400), ("hour", 3600), ("minute", 60))


def ago(t: Translator, at: float | None, now: float) -> str:
    """How long before `now` something was (both in seconds): "3 hours ago", "just now", "never"."""
    if at is None:
        return t("time.never")
    seconds = now - at
    for unit, length in _UNITS:
        if seconds >= length:
            return t("time.ago", span=t.count(f"time.{unit}", int(seconds // length)))
    return t("time.now")


def duration(t: Translator, seconds: float | None) -> str:
    """A length of time with the precision that a person wants: "8 s", "3 min 5 s", "2 h 10 min"."""
    if seconds is None:
        return "–"
    whole = round(seconds)
    if whole < 60:
        return t("time.seconds", s=whole)
    if whole < 3600:
        return t("time.minutes", m=whole // 60, s=whole % 60)
    return t("time.hours", h=whole // 3600, m=whole % 3600 // 60)


def clock(at: float | None) -> str:
    """A moment in seconds since the epoch as `2026-11-23 08:30 UTC`."""
    return "–" if at is None else datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M UTC")
