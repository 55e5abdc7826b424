"""Speed of the built-in extractors: milliseconds per clip and real-time factor on one core.

    OMP_NUM_THREADS=1 python benchmarks/builtin_extractors.py [--seconds 3 10 300]

The clips are synthetic (a moving texture at 6 frames per second, a buzzing voice, 100 words per minute) and
already decoded, so only the extractors are timed. ``cpu`` is processor time, which other processes on the
machine disturb less than wall time; the real-time factor is processor seconds per second of media.
"""

import argparse
import time
from collections.abc import Callable

import cv2
import numpy as np

from emi_ray.extractors import EXTRACTORS, Extractor
from emi_ray.media.clip import DecodedClip, Faces, Waveform

BUILT_IN = ("hashed-ngrams", "prosody", "appearance", "flow", "motion-summary")
FRAME_RATE_HZ, SAMPLE_RATE_HZ, WORDS_PER_S = 6.0, 16_000, 100 / 60
MAX_FRAMES = 400


def made_up_clip(seconds: float) -> DecodedClip:
    """Return a synthetic decoded clip of the given length, with the default limit on frames."""
    rng = np.random.default_rng(0)
    count = min(max(1, round(seconds * FRAME_RATE_HZ)), MAX_FRAMES)
    scene = cv2.GaussianBlur(rng.integers(0, 256, (512, 512, 3)).astype(np.uint8), (0, 0), 5)
    places = (100 + 60 * np.sin(np.arange(count) / 3)).astype(int)
    crops = np.stack([scene[place : place + 224, 2 * place : 2 * place + 224] for place in places // 2])
    boxes = np.column_stack([places / 512, places / 512, np.full((count, 2), 0.4)]).astype(np.float32)
    stamps = (np.arange(count) / FRAME_RATE_HZ).astype(np.float32)
    clock = np.arange(int(seconds * SAMPLE_RATE_HZ)) / SAMPLE_RATE_HZ
    phase = 2 * np.pi * (150 * clock + 5 * np.sin(2 * np.pi * clock))
    sound = 0.1 * np.sin(phase) + 0.05 * np.sin(2 * phase) + 0.01 * rng.normal(size=len(clock))
    words = ["".join(rng.choice(list("aeioulnrst"), 5)) for _ in range(1 + int(seconds * WORDS_PER_S))]
    return DecodedClip(
        "made-up",
        faces=Faces(crops, boxes, stamps, np.ones(count, bool), np.arange(count) == 0),
        waveform=Waveform(sound.astype(np.float32), SAMPLE_RATE_HZ),
        transcript=" ".join(words),
    )


def milliseconds(work: Callable[[], object], clock: Callable[[], float], at_least_s: float = 0.5) -> float:
    """Return the shortest time of a call, over as many calls (at least two) as fill ``at_least_s`` seconds."""
    fastest, began, calls = float("inf"), time.perf_counter(), 0
    while calls < 2 or time.perf_counter() - began < at_least_s:
        start = clock()
        work()
        fastest, calls = min(fastest, clock() - start), calls + 1
    return 1000 * fastest


def built(name: str) -> Extractor:
    kind = EXTRACTORS[name]
    return kind(kind.Settings())


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, nargs="+", default=[3.0, 10.0], help="lengths of clips")
    lengths = parser.parse_args().seconds
    cv2.setNumThreads(1)
    print(
        f"{'extractor':<15} {'seconds':>8} {'steps':>6} {'dim':>5} {'first ms':>9} {'cpu ms':>8} {'rtf':>8}"
    )
    for name in BUILT_IN:
        for seconds in lengths:
            clip = made_up_clip(seconds)
            began = time.perf_counter()
            extractor = built(name)
            steps, dim = extractor.extract([clip])[0].values.shape
            first = 1000 * (time.perf_counter() - began)
            each = milliseconds(lambda e=extractor, c=clip: e.extract([c]), time.process_time)
            rtf = each / 1000 / seconds
            print(f"{name:<15} {seconds:>8g} {steps:>6} {dim:>5} {first:>9.1f} {each:>8.2f} {rtf:>8.5f}")


if __name__ == "__main__":
    main()
