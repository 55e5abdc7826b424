"""A rendered demo corpus: drawn faces that speak, with labels that can be learned from the clips.

    words.py        the transcripts         labels.py      intensities → labels
    voice.py        the audio               plan.py        the content of each clip
    face.py         the face                clip.py        one plan → one mp4 (mp4.py)
    performance.py  the motion              render.py      the corpus on disk
    appearance.py   people and rooms

``docs/demo_corpus.md`` describes what is planted, and how well it is recovered.
"""

from emi_ray.corpus.demo.plan import ClipPlan, draw_clips
from emi_ray.corpus.demo.render import render_demo

__all__ = ["ClipPlan", "draw_clips", "render_demo"]
