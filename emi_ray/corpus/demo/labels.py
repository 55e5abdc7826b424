"""Convert latent intensities to labels with the statistics of the Hume-ABAW EMI training split."""

import numpy as np
from scipy import stats

from emi_ray.schema import EMOTIONS

ZERO_SHARES = {
    "Admiration": 0.553,
    "Amusement": 0.636,
    "Determination": 0.675,
    "Empathic Pain": 0.899,
    "Excitement": 0.618,
    "Joy": 0.675,
}
"""Share of clips with label zero in the official training split."""

MEANS = {
    "Admiration": 0.1785,
    "Amusement": 0.1253,
    "Determination": 0.0967,
    "Empathic Pain": 0.0214,
    "Excitement": 0.1420,
    "Joy": 0.1157,
}
"""Mean label in the official training split, zeros included."""

FEWEST_RATERS, MOST_RATERS = 8, 14
EXCITEMENT_JOY_CORRELATION = 0.33
"""Correlation of the latents; after thresholding, the labels have a correlation of about 0.23."""

_CONCENTRATION = 3.5


def draw_num_raters(num_clips: int, rng: np.random.Generator) -> np.ndarray:
    """Draw the number of raters of each clip: (num_clips,) int."""
    return rng.integers(FEWEST_RATERS, MOST_RATERS, size=num_clips, endpoint=True)


def rate(intensity: np.ndarray, num_raters: np.ndarray) -> np.ndarray:
    """Convert standard normal latent intensities to labels.

    The lowest share of each emotion gets the label zero. Above it, the label increases with the latent along the
    quantiles of a beta distribution with the mean of the non-zero labels, rounded to whole raters, at least one.

    Args:
        intensity: (N, 6) latent intensity of each emotion, standard normal.
        num_raters: (N,) raters of each clip.

    Returns:
        (N, 6) labels k/num_raters, in [0, 1].
    """
    columns = [
        _rate_one(intensity[:, i], num_raters, ZERO_SHARES[name], MEANS[name])
        for i, name in enumerate(EMOTIONS)
    ]
    return np.stack(columns, axis=1)


def _rate_one(intensity: np.ndarray, num_raters: np.ndarray, zero_share: float, mean: float) -> np.ndarray:
    quantile = (stats.norm.cdf(intensity) - zero_share) / (1 - zero_share)
    level = mean / (1 - zero_share)
    beta = stats.beta(level * _CONCENTRATION, (1 - level) * _CONCENTRATION)
    votes = np.maximum(1, np.round(beta.ppf(np.clip(quantile, 0, 1)) * num_raters))
    return np.where(quantile > 0, votes / num_raters, 0.0)
