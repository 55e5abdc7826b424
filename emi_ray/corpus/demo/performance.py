"""Motion of the face through a clip: a pose for each frame."""

from dataclasses import dataclass

import numpy as np

_STEP_PER_CUE = 1.4
"""Octaves of amplitude per standard deviation of a cue."""

_SWING_HZ = 1.5
"""Frequency of the movements: four frames per period at six frames per second, as many up as down."""


@dataclass(frozen=True)
class Pose:
    """The pose in one frame. Lengths are in half-heights of the head, angles in radians.

    All values but the last two oscillate around zero, so that their mean over a clip does not reveal their
    strength.
    """

    x: float
    y: float
    log_scale: float
    roll: float
    left_brow_lift: float
    right_brow_lift: float
    nose_lift: float
    mouth_shift: float
    mouth_lift: float
    mouth_open: float
    eyes_shut: float


@dataclass(frozen=True)
class MotionCues:
    """Strength of each movement in standard deviations; one value per emotion, in the order of ``EMOTIONS``."""

    nod: float
    nose_wrinkle: float
    chew: float
    left_brow: float
    right_brow: float
    mouth_sway: float


_AMPLITUDES = MotionCues(
    nod=0.022, nose_wrinkle=0.045, chew=0.040, left_brow=0.040, right_brow=0.040, mouth_sway=0.045
)
"""Typical amplitudes, in the units of :class:`Pose`."""

_SWAY, _LEAN, _TILT = 0.012, 0.008, 0.012
"""Amplitudes of movements that do not depend on the cues."""


def perform(
    cues: MotionCues, mouth_open: np.ndarray, frame_rate_hz: float, rng: np.random.Generator
) -> list[Pose]:
    """Return the poses of a clip.

    Args:
        mouth_open: (T,) in [0, 1], how far speech opens the mouth in each frame.
    """
    times_s = np.arange(len(mouth_open)) / frame_rate_hz
    moves = {
        name: _limited(amplitude * 2 ** (_STEP_PER_CUE * getattr(cues, name)), 3.5 * amplitude)
        * _oscillation(times_s, rng)
        for name, amplitude in vars(_AMPLITUDES).items()
    }
    sway, lean, tilt = (size * _oscillation(times_s, rng) for size in (_SWAY, _LEAN, _TILT))
    eyes_shut = _blinks(times_s, rng)
    return [
        Pose(
            x=sway[t],
            y=moves["nod"][t],
            log_scale=lean[t],
            roll=tilt[t],
            left_brow_lift=moves["left_brow"][t],
            right_brow_lift=moves["right_brow"][t],
            nose_lift=moves["nose_wrinkle"][t],
            mouth_shift=moves["mouth_sway"][t],
            mouth_lift=moves["chew"][t],
            mouth_open=float(mouth_open[t]),
            eyes_shut=eyes_shut[t],
        )
        for t in range(len(times_s))
    ]


def _oscillation(times_s: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return a wave of unit amplitude at about ``_SWING_HZ`` with whole periods, so that it ends where it starts."""
    span_s = max(times_s[-1], 1 / _SWING_HZ)
    periods = max(1, round(span_s * _SWING_HZ))
    wave: np.ndarray = np.sin(2 * np.pi * (periods * times_s / span_s + rng.uniform()))
    return wave


def _limited(size: float, limit: float) -> float:
    return float(limit * np.tanh(size / limit))


def _blinks(times_s: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Return (T,) in [0, 1], 0 open and 1 shut: a blink of about 0.2 s every 3 s or so."""
    shut = np.zeros(len(times_s))
    moment = rng.uniform(0.5, 3.0)
    while moment < times_s[-1]:
        shut = np.maximum(shut, np.clip(1 - np.abs(times_s - moment) / 0.1, 0, 1))
        moment += rng.uniform(2.0, 4.5)
    return shut
