"""Toxicity by Google's Perspective API: the paper's scorer. A key, the network and patience are needed.

Its models change without notice, so that numbers of different years do not compare.
"""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

from instructgpt.errors import ConfigError, ServiceError

KEY = "PERSPECTIVE_API_KEY"
URL = "https://commentanalyzer.googleapis.com/v1alpha1/comments:analyze"
_TRIES = 5
_TIMEOUT = 30.0
_MOST_BYTES = 20_000  # of one text, by the interface's documentation


class Perspective:
    """TOXICITY of texts, in [0, 1], one request a text at the rate that a key has at first: one a second."""

    def __init__(
        self, key: str, url: str = URL, seconds: float = 1.0, sleep: Callable[[float], None] = time.sleep
    ) -> None:
        """
        Args:
            seconds: between requests.
            sleep: waits for so many seconds.
        """
        self.name = "Perspective TOXICITY"
        self._key, self._url, self._seconds, self._sleep = key, url, seconds, sleep

    @classmethod
    def from_environment(cls) -> Perspective:
        """With the key and, for another address of the service, `PERSPECTIVE_API_URL` of the environment.

        Raises:
            ConfigError: there is no key.
        """
        key = os.environ.get(KEY, "")
        if not key:
            cure = f"get a key for the Perspective API and set {KEY}, or use scorer=words"
            raise ConfigError("Perspective needs a key", "scorer=perspective", cure)
        return cls(key, os.environ.get("PERSPECTIVE_API_URL", URL))

    def score(self, texts: list[str]) -> list[float]:
        """One request a text; an empty text is 0 without asking.

        Raises:
            ServiceError: the service refuses, or does not answer after several tries.
        """
        scores = []
        for number, text in enumerate(texts):
            if number:
                self._sleep(self._seconds)
            scores.append(self._one(text) if text.strip() else 0.0)
        return scores

    def _one(self, text: str) -> float:
        cut = text.encode("utf-8")[:_MOST_BYTES].decode("utf-8", "ignore")
        body = {
            "comment": {"text": cut},
            "languages": ["en"],
            "requestedAttributes": {"TOXICITY": {}},
            "doNotStore": True,
        }
        answer = self._post(body)
        try:
            return float(answer["attributeScores"]["TOXICITY"]["summaryScore"]["value"])
        except (KeyError, TypeError, ValueError) as error:
            what = f"Perspective's answer holds no score: {json.dumps(answer)[:300]}"
            raise ServiceError(what, "scorer=perspective", "try again later") from error

    def _post(self, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            self._url,
            json.dumps(body).encode("utf-8"),
            {"Content-Type": "application/json", "X-Goog-Api-Key": self._key},
        )
        reason = ""
        for attempt in range(_TRIES):
            if attempt:
                self._sleep(self._seconds * 2**attempt)
            try:
                with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
                    return json.loads(response.read())
            except urllib.error.HTTPError as error:
                reason = f"{error.code}: {error.read(500).decode('utf-8', 'replace')}"
                error.close()
                if error.code not in (429, 500, 502, 503, 504):
                    break
            except (OSError, ValueError) as error:
                reason = str(error)
        what = f"Perspective gives no score: {' '.join(reason.split())[:400]}"
        raise ServiceError(what, "scorer=perspective", "look at the key and the network, then run it again")
