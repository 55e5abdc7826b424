"""A corpus that anyone can have: drawn faces that speak, with labels that can be learnt from what they show.

    words.py        what is said                    labels.py   intensities → labels
    voice.py        how it sounds                   plan.py     what each clip shows
    face.py         how it looks                    clip.py     one plan → one mp4 (mp4.py)
    performance.py  how it moves                    render.py   the corpus on disk

``docs/demo_corpus.md`` says what is planted, and how well it is recovered.
"""

from emi_ray.corpus.demo.plan import ClipPlan, draw_clips
from emi_ray.corpus.demo.render import render_demo

__all__ = ["ClipPlan", "draw_clips", "render_demo"]
