"""The headline of the report: the result of a workspace in one sentence, with scores compared on the same clips."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from emi_ray.comparison import FEWEST_CLIPS, common_clips
from emi_ray.reporting.collect import Material
from emi_ray.reporting.formatting import format_score, signed
from emi_ray.reporting.ranking import SameClips
from emi_ray.resampling import Difference, pearson_intervals, sample_scores, score_difference
from emi_ray.results.predictions import ScoredPredictions, read_scored_predictions, read_stage_predictions
from emi_ray.results.runs import Run
from emi_ray.wording import plural


@dataclass(frozen=True)
class Single:
    """The best single modality: a run with one encoder, or a stage of a run.

    Attributes:
        modality: the modality.
        run: the run.
        num_clips: number of clips that the best run is also scored on.
        score: mean r on these clips.
        difference: score of the best run minus this score.
    """

    modality: str
    run: Run
    num_clips: int
    score: float
    difference: Difference


def headline(material: Material, same: SameClips | None) -> str:
    """Compare the best run with the best single modality in a sentence; without runs, describe the workspace."""
    if same is None or math.isnan(same.scores[0]):
        return _unranked(material)
    best, answers = same.runs[0], same.answers[0]
    rank = "" if len(same.runs) == 1 else f" is the best of {plural(len(same.runs), 'run')} on the same clips"
    within = ""
    codes = material.codes_of(answers.clip_ids)
    interval = pearson_intervals(answers.predicted, answers.true, codes).mean
    if not math.isnan(interval.low):
        within = f" (95 % interval {format_score(interval.low)} to {format_score(interval.high)})"
    clips = plural(len(same.clip_ids), "clip")
    reached = (
        f"{best.name}{rank}: mean validation Pearson {format_score(same.scores[0], 4)}{within} over {clips}"
    )
    others = (
        f" {plural(same.others, 'run')} on other clips or without predictions: not compared."
        if same.others
        else ""
    )
    return f"{reached}{_comparison(material, same)}.{others}"


def best_single_modality(material: Material, same: SameClips) -> Single | None:
    """Find the best single modality among runs with one encoder and the stages of other runs; None without any."""
    best = same.answers[0]
    found: Single | None = None
    for modality, run, answers in _candidates(material):
        clip_ids = common_clips([best, answers])
        # On less than half of the clips, a modality would be judged on another sample.
        if len(clip_ids) < max(FEWEST_CLIPS, len(best.clip_ids) // 2) or answers.labels != best.labels:
            continue
        sides = [best.at(clip_ids), answers.at(clip_ids)]
        codes = material.codes_of(clip_ids)
        sampled = [sample_scores([side.predicted], side.true, codes) for side in sides]
        reached = float(sampled[1].whole[0, -1])
        if not math.isnan(reached) and (found is None or reached > found.score):
            gain = score_difference(sampled[0], sampled[1], paired_seeds=True)[-1]
            found = Single(modality, run, len(clip_ids), reached, gain)
    return found


def _candidates(material: Material) -> list[tuple[str, Run, ScoredPredictions]]:
    found = []
    for run in material.runs:
        # A run with one encoder is a candidate itself; of a fusion, its stage-1 encoders are.
        if run.modality:
            answers = read_scored_predictions(material.workspace, run.folder)
            parts = {} if answers is None else {run.modality: answers}
        else:
            parts = read_stage_predictions(material.workspace, run.folder)
        found += [(modality, run, answers) for modality, answers in parts.items()]
    return found


def _comparison(material: Material, same: SameClips) -> str:
    best = same.runs[0]
    if best.modality:
        return f", from {best.modality} alone"
    single = best_single_modality(material, same)
    if single is None:
        return ""
    gain = single.difference
    direction = "above" if gain.value >= 0 else "below"
    where = "" if single.run is best else f" in {single.run.name}"
    clips = (
        ""
        if single.num_clips == len(same.clip_ids)
        else f" on the {plural(single.num_clips, 'clip')} of both"
    )
    text = (
        f", {format_score(abs(gain.value))} {direction} the best single modality "
        f"({single.modality}{where}: {format_score(single.score, 4)}){clips}"
    )
    if math.isnan(gain.p_value):
        return text
    reach = f"95 % interval of the difference {signed(gain.low, 3)} to {signed(gain.high, 3)}"
    return f"{text}; {reach}" + ("" if gain.p_value < 0.05 else ", which is not significant")


def _unranked(material: Material) -> str:
    """Describe a workspace without stored predictions: the best recorded score, or what has been done so far."""
    scored: Sequence[Run] = [run for run in material.runs if not math.isnan(run.val_pearson)]
    if scored:
        best = scored[0]
        clips = plural(best.metrics.get("num_val", 0), "clip")
        return (
            f"{best.name}: mean validation Pearson {format_score(best.val_pearson, 4)} over {clips}. It cannot "
            "be compared, because its predictions are missing."
        )
    if material.clips is None:
        return "The workspace has no corpus yet."
    clips = plural(material.clips.num_rows, "clip")
    modalities = dict.fromkeys(each.modality for each in material.feature_sets if len(each.num_steps))
    if not modalities:
        return f"A corpus of {clips}; no features have been extracted yet."
    return f"A corpus of {clips} with features of {', '.join(modalities)}; no system has been trained yet."
