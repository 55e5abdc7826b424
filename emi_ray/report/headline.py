"""The result of a workspace in one sentence."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from emi_ray.report.collect import Material
from emi_ray.report.numbers import plural
from emi_ray.report.runs import Run, number
from emi_ray.resampling import Interval


@dataclass(frozen=True)
class SingleModality:
    """The best score that one modality reached alone, and the run in which it did."""

    modality: str
    val_pearson: float
    run: Run


def headline(material: Material, interval: Interval | None) -> str:
    """The best run against the best single modality; without runs, how far the workspace has come.

    Args:
        interval: of the best run's mean Pearson.
    """
    scored = [run for run in material.runs if not math.isnan(run.val_pearson)]
    if not scored:
        return _progress(material)
    best = scored[0]
    rank = "" if len(scored) == 1 else f" is the best of {plural(len(scored), 'run')}"
    within = ""
    if interval and not math.isnan(interval.low):
        within = f" (95 % interval {interval.low:.3f} to {interval.high:.3f})"
    clips = plural(best.metrics.get("num_val", 0), "clip")
    reached = f"{best.name}{rank}: mean validation Pearson {best.val_pearson:.4f}{within} over {clips}"
    return f"{reached}{_comparison(best, best_single_modality(scored))}."


def best_single_modality(runs: Sequence[Run]) -> SingleModality | None:
    """Over the unimodal runs and the unimodal stages of the others; of equals, that of the better run."""
    candidates = [
        SingleModality(modality, number(scores.get("val_pearson")), run)
        for run in runs
        for modality, scores in ([(run.modality, run.metrics)] if run.modality else run.stages.items())
    ]
    known = [candidate for candidate in candidates if not math.isnan(candidate.val_pearson)]
    return max(known, key=lambda candidate: candidate.val_pearson, default=None)


def _comparison(best: Run, single: SingleModality | None) -> str:
    if best.modality:
        return f", from {best.modality} alone"
    if single is None:
        return ""
    difference = best.val_pearson - single.val_pearson
    direction = "above" if difference >= 0 else "below"
    where = "" if single.run is best else f" in {single.run.name}"
    return (
        f", {abs(difference):.3f} {direction} the best single modality "
        f"({single.modality}{where}: {single.val_pearson:.4f})"
    )


def _progress(material: Material) -> str:
    if material.clips is None:
        return "Nothing here yet: the workspace has no corpus."
    clips = plural(material.clips.num_rows, "clip")
    modalities = dict.fromkeys(each.modality for each in material.feature_sets if len(each.num_steps))
    if not modalities:
        return f"A corpus of {clips}; no features have been extracted yet."
    return f"A corpus of {clips} with features of {', '.join(modalities)}; no system has been trained yet."
