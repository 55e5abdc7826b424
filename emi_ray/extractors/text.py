"""Text without a download: hashed word and character n-grams, a sentiment lexicon, and a few measures of style."""

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise

import numpy as np
import regex
from pydantic import Field
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from emi_ray.errors import ClipError
from emi_ray.extractors.base import Extractor, Features
from emi_ray.media.clip import DecodedClip
from emi_ray.settings import Settings

_TOKEN = regex.compile(
    r"(?w)(?P<word>[\p{L}\p{M}\p{N}\p{Extended_Pictographic}\p{Regional_Indicator}].*?)\b"
    r"|(?P<marks>[^\s\p{L}\p{M}\p{N}\p{C}\p{Extended_Pictographic}\p{Regional_Indicator}]+)",
    regex.DOTALL,
)
"""Words end where Unicode says (UAX 29), and so do emoji; between them stand runs of punctuation and symbols."""

_SENTENCE_MARKS = r"\p{Ps}\p{Pe}\p{Pi}\p{Pf}\p{Pd}\p{Pc}.,;:!?…'\"`´、。，！？；：・¿¡।۔،؟"
_FACES = r"[<>]?[:;=][-o*'^]?[)\](\[/\\|}{@]+|[)\](\[]+[-o*'^]?[:;=]"
_TELLING_MARKS = regex.compile(rf"[.!?…]{{2,}}|{_FACES}|[^{_SENTENCE_MARKS}]+")
"""Hesitation, emphasis, faces such as ``:)``, and all marks but those of sentences."""

_EMPHASIS = regex.compile(r"[.!?…]+")
_SPACES = regex.compile(r"[\u200b\u2060]")
_INVISIBLE = regex.compile(r"[\p{Variation_Selector}\u00ad\ufeff\u200e\u200f\u202a-\u202e\u2066-\u2069]")
_LAUGHTER = regex.compile(r"(?:ha){2,}h?|(?:he){2,}|lol|lmao|rofl|xd+|(?:ха){2,}|[ㅋㅎ]{2,}|😂|🤣|😹")
_LENGTHENED = regex.compile(r"(\w)\1\1")


def _words(listing: str) -> frozenset[str]:
    return frozenset(listing.split())


_FUNCTION_WORDS = _words(
    "a about an and are as at be been but by can could did do does for from had has have he her him his how "
    "i if in into is it it's its just me my of on or our she so some than that that's the their them then "
    "there they this to up us was we were what when which who will with would you your"
)
_FUNCTION_WORD_WEIGHT = 0.35
"""Words that say little count less, as an inverse document frequency would have it."""

_GROUPS = {
    "hesitations": _words("um uh er erm hmm mm well"),
    "first_person": _words("i i'm i've i'll i'd me my mine myself we we're our us"),
    "second_person": _words("you you're you've you'll your yours yourself"),
    "negations": _words("no not never none nothing nobody don't doesn't didn't can't won't isn't wasn't"),
    "intensifiers": _words("so very really too absolutely totally truly much extremely"),
}
STYLE_NAMES = (
    *("log_words", "word_length", "distinct_words", "exclamations", "questions", "laughter", "lengthened"),
    *_GROUPS,
)
_STYLE_WEIGHT = 0.15
SENTIMENT_NAMES = ("compound", "positive", "negative", "neutral", "most", "least", "total", "emotional_words")
_SENTIMENT_WEIGHT = 0.67
_USUAL_NEUTRAL = 0.7
"""Share of neutral words in most texts."""
_FAMILIES = {"word": (0.5, 1.0), "pair": (0.25, 0.6), "char": (0.25, 0.6)}
"""For each family of n-grams: its share of the hashed dimensions, and its norm before the last scaling."""


class HashedNgramsSettings(Settings):
    """How large the vector is."""

    dim: int = Field(4096, ge=64, le=16384, description="size of the vector")


class HashedNgrams(Extractor):
    """A transcript as one step: an L2-normalised vector of ``dim``.

    Blocks of dimensions, in order (:meth:`feature_names` lists each); n-grams share what style leaves:

    - ``word`` (half): words; function words count less;
    - ``pair`` (a quarter): pairs of neighbouring words;
    - ``char`` (a quarter): 3 to 5 characters within a word and its ends, so *love* and *loved* are close;
    - style: length, variety, punctuation, laughter, lengthened letters, shares of groups of English words;
    - sentiment: what VADER says of the text (Hutto and Gilbert 2014; MIT licence): its four scores, and the highest,
      lowest and total valence and the number of the words in its lexicon. English, with emoji and faces; other
      languages have zeros there.

    An n-gram falls into the bucket, with the sign, that BLAKE2 gives it (Weinberger et al. 2009), and weighs
    1 + ln(count); each family is scaled to a fixed norm. Words are those of Unicode's rules (UAX 29) in any script,
    with their vowel signs and accents; in scripts without spaces each ideograph or syllable is one. Emoji, symbols
    and faces such as ``:)`` are words too. Unicode variants (NFKC) do not matter, and letter case only to VADER,
    which takes capitals for emphasis. The transcript has no clock, so its one timestamp is 0.

    The more dimensions, the fewer n-grams share one. On the emotion intensities of tweets a ridge reaches r .60 with
    768 and .67 with 4096, without the lexicon .49 and .59 (``benchmarks/text_features.py``). An inverse document
    frequency of the training texts adds nothing to the lower weight of function words.
    """

    NAME = "hashed-ngrams"
    VERSION = 3
    MODALITY = "text"
    NEEDS = frozenset({"transcript"})
    DIM = 4096
    Settings = HashedNgramsSettings

    def __init__(self, settings: HashedNgramsSettings) -> None:
        super().__init__(settings)
        self._sentiment = SentimentIntensityAnalyzer()
        hashed = settings.dim - len(STYLE_NAMES) - len(SENTIMENT_NAMES)
        self._sizes = {family: int(hashed * share) for family, (share, _) in _FAMILIES.items()}
        self._sizes["word"] += hashed - sum(self._sizes.values())

    @property
    def feature_dim(self) -> int:
        return int(self.settings.dim)

    def feature_names(self) -> list[str]:
        """One name a dimension, such as ``word_0``, ``char_5`` or ``exclamations``."""
        buckets = [f"{family}_{bucket}" for family, size in self._sizes.items() for bucket in range(size)]
        return [*buckets, *STYLE_NAMES, *SENTIMENT_NAMES]

    def extract(self, clips: Sequence[DecodedClip]) -> list[Features]:
        """One step a clip: (1, dim) float32.

        Raises:
            ClipError: a transcript holds no word.
        """
        return [self._features(clip.transcript or "") for clip in clips]

    def _features(self, transcript: str) -> Features:
        text = normalized(transcript)
        words = words_of(text)
        if all(_EMPHASIS.fullmatch(word) for word in words):
            raise ClipError("text", "the transcript is empty" if not text.strip() else "it holds no word")
        grams = {
            "word": _weighted(words),
            "pair": _weighted(f"{first} {second}" for first, second in pairwise(words)),
            "char": _weighted(gram for word in words for gram in _character_grams(word)),
        }
        parts = [
            _hashed(grams[family], self._sizes[family]) * norm for family, (_, norm) in _FAMILIES.items()
        ]
        sentiment = self._sentiment_of(transcript, words) * _SENTIMENT_WEIGHT
        vector = np.concatenate([*parts, _style(text, words) * _STYLE_WEIGHT, sentiment])
        values = (vector / np.sqrt(np.sum(vector**2))).astype(np.float32)
        return Features(values[None], np.zeros(1, np.float32))

    def _sentiment_of(self, transcript: str, words: Sequence[str]) -> np.ndarray:
        """The features ``SENTIMENT_NAMES``, each about [-1, 1]; zeros where the lexicon has none of the words."""
        scores = self._sentiment.polarity_scores(_visible(transcript))  # capitals are emphasis
        valences = [self._sentiment.lexicon[word] for word in words if word in self._sentiment.lexicon]
        if not valences and not scores["compound"]:
            return np.zeros(len(SENTIMENT_NAMES))
        return np.array(
            [
                scores["compound"],
                scores["pos"],
                scores["neg"],
                scores["neu"] - _USUAL_NEUTRAL,
                max([*valences, 0]) / 4,
                min([*valences, 0]) / 4,
                np.clip(sum(valences) / 4, -2, 2),
                min(1.0, len(valences) / 5),
            ]
        )


def normalized(transcript: str) -> str:
    """Lower case, one form for each character (NFKC), one apostrophe, and nothing that cannot be seen."""
    return _visible(transcript).lower()


def _visible(transcript: str) -> str:
    text = _INVISIBLE.sub("", _SPACES.sub(" ", transcript))
    return unicodedata.normalize("NFKC", text).replace("\u2019", "'")


def words_of(text: str) -> list[str]:
    """Words, emoji, symbols and telling marks of a :func:`normalized` text, in their order.

    Marks of sentences are left out, unless they are a face or stand for hesitation or emphasis (``...``, ``?!``).
    """
    found = []
    for match in _TOKEN.finditer(text):
        marks = match["marks"]
        if marks is None:
            found.append(match["word"])
        else:
            found += _TELLING_MARKS.findall(marks)
    return found


def _weighted(grams: Iterable[str]) -> dict[str, float]:
    """Sublinear weight of each n-gram; less for function words."""
    return {
        gram: (1 + np.log(count)) * (_FUNCTION_WORD_WEIGHT if gram in _FUNCTION_WORDS else 1)
        for gram, count in Counter(grams).items()
    }


def _character_grams(word: str) -> Iterable[str]:
    if word in _FUNCTION_WORDS:
        return
    marked = f"<{word}>"
    for size in (3, 4, 5):
        for start in range(len(marked) - size + 1):
            yield marked[start : start + size]


def _hashed(weights: Mapping[str, float], size: int) -> np.ndarray:
    """Unit vector (size,) of signed, hashed weights; zeros where there is no n-gram."""
    digests = b"".join(hashlib.blake2b(gram.encode(), digest_size=8).digest() for gram in weights)
    codes = np.frombuffer(digests, dtype="<u8")
    signed = np.where(codes & 1, 1.0, -1.0) * np.fromiter(weights.values(), float, len(weights))
    vector = np.bincount(((codes >> 1) % size).astype(np.int64), weights=signed, minlength=size)
    norm = np.sqrt(np.sum(vector**2))
    return vector / norm if norm > 0 else vector


def _style(text: str, words: Sequence[str]) -> np.ndarray:
    """The features ``STYLE_NAMES``, each about [-1, 1]; counts are per ten words, at most 1."""

    def rate(count: int) -> float:
        return min(1.0, 10 * count / len(words))

    return np.array(
        [
            np.log10(len(words)) - 1,
            np.clip(np.mean([len(word) for word in words]) / 4 - 1, -1, 1),
            2 * len(set(words)) / len(words) - 1,
            rate(text.count("!")),
            rate(text.count("?")),
            rate(sum(bool(_LAUGHTER.fullmatch(word)) for word in words)),
            rate(sum(bool(_LENGTHENED.search(word)) for word in words)),
            *(rate(sum(word in group for word in words)) for group in _GROUPS.values()),
        ]
    )
