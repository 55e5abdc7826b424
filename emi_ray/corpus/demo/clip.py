"""Render one planned clip to one mp4 file."""

from pathlib import Path

import numpy as np

from emi_ray.corpus.demo.appearance import draw_look
from emi_ray.corpus.demo.face import VisionCues, draw_frame
from emi_ray.corpus.demo.mp4 import Film, write_mp4
from emi_ray.corpus.demo.performance import MotionCues, perform
from emi_ray.corpus.demo.plan import ClipPlan
from emi_ray.corpus.demo.voice import ENVELOPE_RATE_HZ, SAMPLE_RATE_HZ, VoiceCues, speak_aloud

FRAME_RATE_HZ = 12


def render_clip(plan: ClipPlan, path: Path) -> None:
    """Render ``plan`` to an mp4 file. The file depends only on the plan."""
    look_rng, voice_rng, motion_rng = (np.random.default_rng([*plan.seed, stream]) for stream in (2, 3, 4))
    speech = speak_aloud(VoiceCues(*plan.cues["audio"]), plan.duration_s, voice_rng)
    mouth = _at_frames(speech.envelope, plan.duration_s)
    poses = perform(MotionCues(*plan.cues["motion"]), mouth, FRAME_RATE_HZ, motion_rng)
    look, shape = draw_look(look_rng), VisionCues(*plan.cues["vision"])
    frames = [draw_frame(look, shape, pose) for pose in poses]
    write_mp4(Film(frames, FRAME_RATE_HZ, speech.samples, SAMPLE_RATE_HZ), path)


def _at_frames(envelope: np.ndarray, duration_s: float) -> np.ndarray:
    """Return the envelope at the time of each frame: the louder a syllable, the wider the mouth is open."""
    num_frames = max(1, round(duration_s * FRAME_RATE_HZ))
    at = np.arange(num_frames) / FRAME_RATE_HZ * ENVELOPE_RATE_HZ
    return np.interp(at, np.arange(len(envelope)), envelope)
