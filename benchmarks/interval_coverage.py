"""Coverage of the 95 % intervals of the report and of `emi-ray compare`, over simulated corpora.

    python benchmarks/interval_coverage.py --corpora 200 --people 40 --clips 20 --seeds 3

Every corpus has people with some clips each, six labels, most of them zero as in Hume-Vidmimic2, and two systems
under a few seeds. Labels and errors of one person's clips resemble each other, the two systems make partly the
same errors, and a seed's luck makes its errors larger or smaller. The truth is what a corpus of very many people,
and very many seeds, gives; with one seed there is no luck, for nothing could tell it. Printed is the share of
corpora whose interval holds it: of the difference of the two systems' means, by people and by clips alone, and
with one seed of the mean of one system.
"""

import argparse

import numpy as np

from emi_ray.metrics import mean_score
from emi_ray.resampling import pearson_intervals, sample_scores, score_difference

LABELS = 6
ZERO_ABOVE = np.array([0.2, 0.4, 0.5, 1.2, 0.35, 0.5])
"""Moods below these are rated zero: 58 to 88 % of the clips."""

NOISE = (1.4, 1.8)
OF_THE_PERSON = 0.5
"""Share of the variance of moods and errors that is the same for all clips of a person."""
SHARED = 0.5
"""Share of the errors' variance that both systems have in common."""
LUCK_OF_SEEDS = 0.06


def draw(random: np.random.Generator, codes: np.ndarray, num_seeds: int, luck: float):
    """Return targets (N, L), and for each system the predictions (N, L) of its seeds."""
    mood = _within(random, codes)
    targets = np.maximum(mood - ZERO_ABOVE, 0)
    common = _within(random, codes)
    systems = []
    for noise in NOISE:
        own = _within(random, codes)
        said = []
        for _ in range(num_seeds):
            error = np.sqrt(SHARED) * common + np.sqrt((1 - SHARED) / 2) * (own + _within(random, codes))
            scale = noise * np.exp(random.normal(0, luck))
            said.append(mood + scale * error)
        systems.append(said)
    return targets, systems


def truth(luck: float, num_people: int = 400_000) -> tuple[float, float]:
    """Return the expected score of one run of each system, over very many people and seeds."""
    random = np.random.default_rng(12345)
    codes = np.arange(num_people)
    scores = []
    for _ in range(40):
        targets, systems = draw(random, codes[: num_people // 40], 1, luck)
        scores.append([mean_score("pearson", said[0], targets) for said in systems])
    first, second = np.mean(scores, axis=0)
    return float(first), float(second)


def simulate(num_corpora: int, num_people: int, num_clips: int, num_seeds: int) -> dict[str, float]:
    """Return the shares of intervals that contain the true value."""
    luck = LUCK_OF_SEEDS if num_seeds > 1 else 0.0
    expected = truth(luck)
    codes = np.repeat(np.arange(num_people), num_clips)
    alone = np.arange(len(codes))
    held = {"difference, by people": 0, "difference, by clips": 0, "one mean, by people": 0}
    for corpus in range(num_corpora):
        targets, systems = draw(np.random.default_rng([1, corpus]), codes, num_seeds, luck)
        for name, groups in (("difference, by people", codes), ("difference, by clips", alone)):
            sides = [sample_scores(said, targets, groups) for said in systems]
            found = score_difference(*sides, paired_seeds=False)[-1]
            held[name] += found.low <= expected[0] - expected[1] <= found.high
        if num_seeds == 1:
            one = pearson_intervals(systems[0][0], targets, codes).mean
            held["one mean, by people"] += one.low <= expected[0] <= one.high
    return {name: count / num_corpora for name, count in held.items() if num_seeds == 1 or "mean" not in name}


def _within(random: np.random.Generator, codes: np.ndarray) -> np.ndarray:
    """Return normal numbers (N, L) of variance 1 that the clips of a person partly share."""
    of_people = random.normal(size=(codes.max() + 1, LABELS))[codes]
    of_clips = random.normal(size=(len(codes), LABELS))
    return np.sqrt(OF_THE_PERSON) * of_people + np.sqrt(1 - OF_THE_PERSON) * of_clips


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, default in (("corpora", 200), ("people", 40), ("clips", 20), ("seeds", 3)):
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    shares = simulate(options.corpora, options.people, options.clips, options.seeds)
    for name, share in shares.items():
        print(f"{share:.1%}  {name}")


if __name__ == "__main__":
    main()
