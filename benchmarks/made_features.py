"""Simulated features from a known generative model, so that the best possible score is known too.

A clip has a hidden mood u (6,), normal. It is partly its person's (people have 1 to 60 clips each and are in one
split only), partly its length's: joyful clips are longer, empathic pain is not. A label is the share of 9 raters who
see what of u rises above a threshold, which leaves about as many zeros as in Hume-Vidmimic2. Every modality sees u
through noise of its own, v = u + noise, the text least noisy; some clips have no text. Features carry a random map of
v in those steps that matter (a third of them, marked by a direction of their own) and unrelated variation in all.
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from emi_ray.metrics import mean_of_known, pearson
from emi_ray.schema import EMOTION_LABELS, Modality
from emi_ray.training.data.clip_data import ClipData, PackedFeatures

ZERO_SHARE = np.array([0.553, 0.636, 0.675, 0.899, 0.618, 0.675])
NOISE: dict[Modality, float] = {"text": 1.3, "audio": 1.9, "vision": 4.0, "motion": 5.0}
PAPER_DIMS: dict[Modality, int] = {"text": 768, "audio": 1024, "vision": 768, "motion": 23}
PAPER_STEPS: dict[Modality, int] = {"text": 1, "audio": 250, "vision": 65, "motion": 65}
MAX_STEPS = 6000
MISSING_TEXT = 0.06
OF_PERSON = 0.15
"""Share of the mood's variance that is the person's."""
OF_LENGTH = np.array([0.35, 0.25, 0.0, 0.0, 0.45, 0.45])
"""Correlation of the mood with the logarithm of the length."""
NUM_RATERS = 9
_CLIPS_A_PERSON = 20
_BANK = 4096
_STEP_NOISE = 1.5


@dataclass(frozen=True)
class Made:
    """Simulated clips, and the val Pearson of a predictor that knows the generative model and each modality's v."""

    data: ClipData
    oracle: float


def make_clips(
    num_train: int,
    num_val: int,
    seed: int,
    dims: dict[Modality, int] = PAPER_DIMS,
    steps: dict[Modality, int] = PAPER_STEPS,
) -> Made:
    """Make train and val clips: float16 features with a long tail of lengths, 6 % without text, people as groups."""
    random = np.random.default_rng(seed)
    num_clips, num_labels = num_train + num_val, len(EMOTION_LABELS)
    log_length = random.normal(size=num_clips)
    people = np.concatenate([_people(num_train, "t", random), _people(num_val, "v", random)])
    mood = _draw_mood(people, log_length, num_labels, random)
    threshold = norm.ppf(ZERO_SHARE) - 0.25  # clips that rise above it a little are often seen by no rater
    chance = np.clip((mood - threshold) / 2.5, 0, 1)
    targets = (random.binomial(NUM_RATERS, chance) / NUM_RATERS).astype(np.float32)
    views, features = {}, {}
    tail = np.exp(0.8 * log_length)
    for modality in dims:
        view = mood + random.normal(0, NOISE[modality], mood.shape)
        lengths = np.clip((steps[modality] * tail).astype(np.int64), 1, MAX_STEPS)
        if steps[modality] == 1:
            lengths = (random.random(num_clips) >= MISSING_TEXT).astype(np.int64)
        features[modality] = _render(view, lengths, dims[modality], random)
        views[modality] = view, lengths > 0
    splits = np.repeat(["train", "val"], [num_train, num_val])
    ids = np.array([f"{index:05d}" for index in range(num_clips)])
    data = ClipData(ids, splits, features, targets, EMOTION_LABELS, people.astype(object))
    guess = _posterior(views, threshold, log_length)
    return Made(data, mean_of_known(pearson(guess[num_train:], targets[num_train:])))


def _render(view: np.ndarray, lengths: np.ndarray, width: int, random: np.random.Generator) -> PackedFeatures:
    mapping = random.normal(size=(view.shape[1], width)) / np.sqrt(view.shape[1])
    marker = random.normal(size=width) / np.sqrt(width) * 6.0
    bank = random.normal(0, _STEP_NOISE, (_BANK, width)).astype(np.float32)
    starts = np.cumsum(lengths) - lengths
    values = np.empty((int(lengths.sum()), width), dtype=np.float16)
    signal = (view @ mapping / np.sqrt(1 + np.var(view))).astype(np.float32)
    for clip, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        matters = (random.random(length) < 1 / 3) | (length == 1)
        noise = bank[random.integers(_BANK, size=length)]
        values[start : start + length] = noise + matters[:, None] * (signal[clip] + marker)
    return PackedFeatures(values, starts, lengths, lengths > 0, f"made{width}")


def _people(num_clips: int, prefix: str, random: np.random.Generator) -> np.ndarray:
    """Return the person (N,) of each clip; the number of clips per person varies by a factor of 60."""
    weights = random.lognormal(0.0, 0.8, max(2, num_clips // _CLIPS_A_PERSON))
    chosen = random.choice(len(weights), num_clips, p=weights / weights.sum())
    return np.array([f"{prefix}{number}" for number in chosen])


def _draw_mood(
    people: np.ndarray, log_length: np.ndarray, num_labels: int, random: np.random.Generator
) -> np.ndarray:
    """Return moods (N, L) of variance 1; the last two labels correlate by 0.25 besides the effect of length."""
    names, person = np.unique(people, return_inverse=True)
    own = random.normal(size=(len(people), num_labels))
    own[:, 5] = 0.25 * own[:, 4] + np.sqrt(1 - 0.25**2) * own[:, 5]
    of_person = random.normal(size=(len(names), num_labels))[person]
    rest = np.sqrt(OF_PERSON) * of_person + np.sqrt(1 - OF_PERSON) * own
    mood: np.ndarray = OF_LENGTH * log_length[:, None] + np.sqrt(1 - OF_LENGTH**2) * rest
    return mood


def _posterior(
    views: dict[Modality, tuple[np.ndarray, np.ndarray]], threshold: np.ndarray, log_length: np.ndarray
) -> np.ndarray:
    """E[max(0, u - threshold)] given the length and every v. What other clips of a person and correlated labels say
    is passed over."""
    precision = np.broadcast_to(1 / (1 - OF_LENGTH**2), (len(log_length), len(OF_LENGTH)))
    weighted = precision * OF_LENGTH * log_length[:, None]
    for modality, (view, present) in views.items():
        share = present[:, None] / NOISE[modality] ** 2
        precision, weighted = precision + share, weighted + share * view
    mean, deviation = weighted / precision, 1 / np.sqrt(precision)
    z = (mean - threshold) / deviation
    guess: np.ndarray = deviation * (z * norm.cdf(z) + norm.pdf(z))
    return guess
