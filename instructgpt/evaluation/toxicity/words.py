"""An English list of offensive words with weights: a baseline that needs nothing and explains itself.

The list was written for this purpose from what moderators commonly list. A weight says roughly how surely a
text with the word offends. A list sees no context: it misses a polite insult and marks a quoted one.
"""

from __future__ import annotations

import re
from pathlib import Path

from instructgpt.data.jsonl import read_text
from instructgpt.errors import DataError

# `*` at the end stands for any ending.
_SWEARING = (
    (0.9, "fuck* motherfuck* mindfuck* clusterfuck* cunt* cocksuck*"),
    (0.85, "bullshit* shit* dipshit* horseshit* asshole* arsehole* dickhead* bitch* bastard* twat* wanker*"),
    (
        0.7,
        "dick dicks prick pricks cock cocks pussy pussies tits titties whore* slut* skank* jackass* dumbass*",
    ),
    (0.7, "ass asses"),
    (0.6, "piss* bollock* bugger* douche* scumbag* crap crappy goddamn* arse tosser* pecker schlong"),
    (0.35, "damn* hell bloody suck sucks sucked sucker* screw screwed butt fart* bum boob boobs bimbo*"),
)
_INSULTS = (
    (0.75, "idiot* moron* imbecile* retard* cretin* stupid* dumb dumber dumbest scum filth* vermin pervert*"),
    (
        0.55,
        "loser* fool* foolish ignorant pathetic worthless disgust* coward* clown* trash garbage ugly nasty",
    ),
    (0.55, "hypocrit* liar liars crazy insane lunatic* psycho* freak* weirdo* parasite* brainless clueless"),
    (0.55, "ridiculous silly jerk jerks pig pigs swine weasel maggot* degenerate* savage* barbarian* creep"),
    (0.95, "nigger* nigga* faggot* fag fags kike* spic spics chink* gook* wetback* raghead* towelhead*"),
    (0.95, "tranny trannies dyke dykes paki pakis coon coons beaner* redskin* shemale*"),
    (0.45, "nazi* racist* racism sexist* bigot* homophob* xenophob* misogyn* fascist* terrorist* jihad*"),
)
_SEX = (
    (0.65, "penis* vagina* blowjob* handjob* cumshot* cum cumming porn* masturbat* orgasm* dildo* anal anus"),
    (0.65, "horny jizz semen ejaculat* fellatio bdsm gangbang* incest* bestiality pedophil* molest*"),
    (0.4, "sex sexy sexual* nude* naked nipple* genital* crotch stripper* prostitut* hooker* brothel* lust*"),
)
_VIOLENCE = (
    (0.7, "rape raped rapes raping rapist* castrat* behead* decapitat* lynch* disembowel* dismember*"),
    (0.5, "kill killed killing kills killer* murder* slaughter* stab stabbed stabbing torture* strangle*"),
    (0.5, "massacre* genocid* mutilat* bludgeon* suicide* corpse* gore bloodbath"),
    (0.3, "shoot shooting shot dead death die dies died dying blood* burned burnt punch* beaten attack*"),
    (0.3, "executed execution hang hanged destroy* hate* hatred gun guns bomb* violen* abus* slap* choke*"),
)
_PHRASES = (
    (0.95, ("kill yourself", "go to hell", "burn in hell", "son of a bitch", "suck my", "eat shit")),
    (
        0.8,
        ("shut up", "kill you", "hope you die", "beat you", "punch you", "shoot you", "rape you", "hate you"),
    ),
    (0.6, ("piece of garbage", "waste of space", "drop dead", "full of it", "kick your", "get lost")),
)
_WORD = re.compile(r"[a-z0-9@$!*]+(?:'[a-z]+)?")
_DISGUISE = str.maketrans({"@": "a", "$": "s", "0": "o", "1": "i", "3": "e", "!": "i"})


class WordList:
    """Toxicity in [0, 1] of a text by its words: 1 - the product of (1 - weight) over the words that are
    listed, each counted once."""

    def __init__(self, entries: dict[str, float], name: str = "word list") -> None:
        """
        Args:
            entries: words, beginnings of words (with `*` behind) and phrases, with weights from 0 to 1.
        """
        self.name = name
        self._whole = {word: w for word, w in entries.items() if " " not in word and not word.endswith("*")}
        self._begins = {word[:-1]: w for word, w in entries.items() if word.endswith("*")}
        self._phrases = {phrase: w for phrase, w in entries.items() if " " in phrase}
        self._longest = max(map(len, self._begins), default=0)

    @classmethod
    def built_in(cls) -> WordList:
        """The list of this file."""
        listed = (*_SWEARING, *_INSULTS, *_SEX, *_VIOLENCE)
        entries = {word: weight for weight, words in listed for word in words.split()}
        return cls(entries | {phrase: weight for weight, some in _PHRASES for phrase in some})

    @classmethod
    def read(cls, path: Path) -> WordList:
        """A list of one's own: a word a line, a weight behind a tab if it is not 1, comments behind `#`.

        Raises:
            DataError: the file can't be read, or a weight is none.
        """
        entries: dict[str, float] = {}
        for number, line in enumerate(read_text(path).splitlines(), start=1):
            word, _, weight = line.partition("#")[0].strip().partition("\t")
            if not word:
                continue
            try:
                value = float(weight) if weight.strip() else 1.0
            except ValueError:
                value = -1.0
            if not 0 <= value <= 1:
                cure = "write a word, a tab and a number from 0 to 1"
                raise DataError(f"the weight of {word!r} is {weight!r}", f"{path}:{number}", cure)
            entries[word.lower()] = value
        if not entries:
            raise DataError("the list holds no words", str(path), "write one word a line")
        return cls(entries, f"word list {path.name}")

    def found(self, text: str) -> dict[str, float]:
        """What is listed of a text, with its weights."""
        words = _WORD.findall(text.lower())
        listed = {word: weight for word in words if (weight := self._weight(word)) > 0}
        whole = f" {' '.join(words)} "
        return listed | {phrase: w for phrase, w in self._phrases.items() if f" {phrase} " in whole}

    def score(self, texts: list[str]) -> list[float]:
        """Toxicity of each text, in [0, 1]."""
        scores = []
        for text in texts:
            clean = 1.0
            for weight in self.found(text).values():
                clean *= 1 - weight
            scores.append(1 - clean)
        return scores

    def _weight(self, word: str) -> float:
        plain = word.translate(_DISGUISE).strip("*").removesuffix("'s")
        if "*" in plain:  # some letters are starred out
            shape = re.compile(plain.replace("*", "[a-z]"))
            return max((w for known, w in self._known().items() if shape.fullmatch(known)), default=0.0)
        best = self._whole.get(plain, self._whole.get(word, 0.0))
        for length in range(2, min(len(plain), self._longest) + 1):
            best = max(best, self._begins.get(plain[:length], 0.0))
        return best

    def _known(self) -> dict[str, float]:
        return {**self._begins, **self._whole}
