"""Generate transcripts: everyday fragments, mixed with phrases of the emotions that the text expresses."""

import numpy as np

from emi_ray.schema import EMOTIONS

PHRASES: dict[str, tuple[str, ...]] = {
    "Admiration": ("i admire that", "admirable", "admiration"),
    "Amusement": ("so funny", "funny", "the funniest thing"),
    "Determination": ("i am determined", "determined", "determination"),
    "Empathic Pain": ("such pain", "painful", "it pains me"),
    "Excitement": ("so exciting", "excited", "excitement"),
    "Joy": ("what a joy", "joy", "joyful"),
}
"""Phrases with a word stem that is unique to each emotion."""

FRAGMENTS = (
    "on the way home",
    "about an hour ago",
    "we went to the shop",
    "and then i said",
    "it was on the table",
    "my neighbour told me",
    "in the afternoon",
    "after lunch",
    "you know",
    "i mean",
    "well",
    "the other day",
    "they came by train",
    "at the office",
    "we talked for a while",
    "there was some rain",
    "she called me back",
    "he opened the door",
    "let me think",
    "as i was saying",
    "the room was quiet",
    "a cup of tea",
    "in the end",
    "for the first time",
    "next to the window",
    "before the meeting",
    "with my brother",
    "it started at nine",
    "i read the letter",
    "down the street",
    "so anyway",
    "like last year",
)
"""Fragments that are unrelated to any emotion."""

WORDS_PER_S = 3.6
STRAY_SHARE = 0.05
"""Share of emotional phrases whose emotion is drawn at random."""

_STEPS = (0.0, 0.5, 1.0, 1.5, 2.0)
"""Thresholds of a cue; each one that is exceeded adds one phrase of the emotion."""


def speak(cues: np.ndarray, duration_s: float, rng: np.random.Generator) -> str:
    """Generate the transcript of a clip.

    Args:
        cues: (6,) standard normal: how strongly the text expresses each emotion.
        duration_s: determines the number of words; the strongest emotions come first.

    Returns:
        Lower-case words without punctuation, like those of speech recognition; at least one.
    """
    budget = max(12, round(duration_s * WORDS_PER_S))
    parts: list[str] = []
    for emotion in _emotions_to_voice(cues):
        if rng.random() < STRAY_SHARE:
            emotion = int(rng.integers(len(EMOTIONS)))
        phrase = str(rng.choice(PHRASES[EMOTIONS[emotion]]))
        if parts and _num_words(parts) + _num_words([phrase]) > budget:
            break
        parts.append(phrase)
    while not parts or _num_words(parts) < budget - 1:
        parts.append(str(rng.choice(FRAGMENTS)))
    rng.shuffle(parts)
    return " ".join(parts)


def _emotions_to_voice(cues: np.ndarray) -> list[int]:
    """Return indices of emotions, one per phrase, in decreasing order of the margin over the threshold."""
    wanted = [(cue - step, e) for e, cue in enumerate(cues) for step in _STEPS if cue > step]
    return [e for _, e in sorted(wanted, reverse=True)]


def _num_words(parts: list[str]) -> int:
    return sum(len(part.split()) for part in parts)
