"""A small version of benchmarks/interval_coverage.py: intervals contain the true value at their nominal rate."""

import numpy as np

from emi_ray.resampling import sample_scores, score_difference

PEOPLE, CLIPS, NOISE = 30, 20, (1.2, 1.8)
SHARED = 0.5


def within(random: np.random.Generator, codes: np.ndarray) -> np.ndarray:
    """Normal numbers (N, 2) of variance 1, half of it the same for all clips of a person."""
    of_people = random.normal(size=(codes.max() + 1, 2))[codes]
    return np.sqrt(0.5) * (of_people + random.normal(size=of_people.shape))


def test_interval_of_a_difference_holds_the_truth_in_nineteen_of_twenty_corpora() -> None:
    codes = np.repeat(np.arange(PEOPLE), CLIPS)
    truth = np.diff([1 / np.sqrt(1 + noise**2) for noise in NOISE])[0] * -1
    held = {"people": 0, "clips": 0}
    for corpus in range(80):
        random = np.random.default_rng([7, corpus])
        true, common = within(random, codes), within(random, codes)
        said = [
            true + noise * (np.sqrt(SHARED) * common + np.sqrt(1 - SHARED) * within(random, codes))
            for noise in NOISE
        ]
        for name, groups in (("people", codes), ("clips", np.arange(len(codes)))):
            if name == "clips" and corpus >= 20:
                continue
            sides = [sample_scores([one], true, groups) for one in said]
            found = score_difference(*sides, paired_seeds=False)[-1]
            held[name] += found.low <= truth <= found.high
    assert 0.88 <= held["people"] / 80 <= 0.99
    assert held["clips"] / 20 < 0.88  # as if the clips of a person were people
