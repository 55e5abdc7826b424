"""How a run fares on harder clips: with fewer modalities, on clips that lack one, by length of the clip.

Everything is computed from stored features and the run's own model. Noisy sound and wrong words have to be extracted
anew: ``perturbation.py`` does that.
"""

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from typing import Any

import numpy as np

from emi_ray.comparison import codes_of_clips
from emi_ray.evaluation import RunData, read_run
from emi_ray.metrics import mean_score
from emi_ray.resampling import pearson_intervals
from emi_ray.training.clip_data import ClipData
from emi_ray.training.run_files import predict_in_units, without_nan
from emi_ray.workspace import Workspace

ROBUSTNESS = "robustness.json"
_ALL_SUBSETS = 4
"""Encoders up to which every subset of them is tried; of more, each alone and all but each."""

_FEWEST = 10
_PARTS = 4


def measure_robustness(workspace: Workspace, run: str) -> dict[str, Any]:
    """Score a run on harder validation clips, and write ``robustness.json`` beside its model.

    Returns:
        ``subsets``: with some encoders' input alone, over the clips that have every input; ``lacking``: over clips
        that lack an input, as they are; ``lengths``: over quarters of the clips by duration. Each entry has ``name``,
        ``num_clips``, ``val_pearson`` (mean over labels; None where it is not defined), ``low`` and ``high`` of its
        95 % interval. ``run_key`` says which training they belong to.

    Raises:
        UserError: as :func:`emi_ray.evaluation.evaluate_run`.
    """
    found = read_run(workspace, run)
    data, val = found.data, found.rows.val
    streams = list(found.loaded.model.modalities)
    present = {stream: data.features[stream].present[val] for stream in streams}
    complete = val[np.all(list(present.values()), axis=0)]
    score = _Scorer(workspace, found)
    subsets = [
        score.of(" + ".join(kept), complete, without(data, [s for s in streams if s not in kept]))
        for kept in _subsets(streams)
        if len(complete) >= _FEWEST
    ]
    lacking = [
        score.of(f"without {stream}", val[~present[stream]], data)
        for stream in streams
        if (~present[stream]).sum() >= _FEWEST
    ]
    result = without_nan(
        {
            "subsets": subsets,
            "lacking": lacking,
            "lengths": _by_length(score, _seconds(workspace, found)[val], val),
            "run_key": found.loaded.description.run_key,
        }
    )
    workspace.write_json(f"{found.folder}/{ROBUSTNESS}", result)
    return result


def without(data: ClipData, streams: Sequence[str]) -> ClipData:
    """The same clips as if none had the input of some encoders."""
    nothing = np.zeros(len(data), dtype=np.int64)
    changed = {
        name: replace(features, starts=nothing, lengths=nothing, present=nothing > 0)
        if name in streams
        else features
        for name, features in data.features.items()
    }
    return data.with_features(changed)


class _Scorer:
    def __init__(self, workspace: Workspace, found: RunData) -> None:
        self._workspace, self._found = workspace, found

    def of(self, name: str, rows: np.ndarray, data: ClipData) -> dict[str, Any]:
        predicted, true = predict_in_units(self._found.loaded.model, data, rows), data.targets[rows]
        codes = codes_of_clips(self._workspace, data.clip_ids[rows].tolist())
        interval = pearson_intervals(predicted, true, codes).mean
        return {
            "name": name,
            "num_clips": len(rows),
            "val_pearson": mean_score("pearson", predicted, true),
            "low": interval.low,
            "high": interval.high,
        }


def _subsets(streams: Sequence[str]) -> list[tuple[str, ...]]:
    """Every subset, the largest first; of many streams, all, all but each, and each alone."""
    sizes = range(len(streams), 0, -1)
    if len(streams) > _ALL_SUBSETS:
        sizes = sorted({len(streams), len(streams) - 1, 1}, reverse=True)  # type: ignore[assignment]
    return [kept for size in sizes for kept in combinations(streams, size)]


def _by_length(score: _Scorer, seconds: np.ndarray, val: np.ndarray) -> list[dict[str, Any]]:
    timed, known = val[np.isfinite(seconds)], seconds[np.isfinite(seconds)]
    if len(timed) < _PARTS * _FEWEST or known.min() == known.max():
        return []
    edges = np.quantile(known, np.linspace(0, 1, _PARTS + 1))
    part = np.clip(np.searchsorted(edges, known, side="right") - 1, 0, _PARTS - 1)
    names = [f"{low:.1f} to {high:.1f} s" for low, high in pairwise(edges)]
    chosen = [(name, timed[part == index]) for index, name in enumerate(names)]
    return [score.of(name, rows, score._found.data) for name, rows in chosen if len(rows) >= _FEWEST]


def _seconds(workspace: Workspace, found: RunData) -> np.ndarray:
    """Where the last step of each clip lies in time, (N,), over all features; NaN where none says so."""
    last: dict[str, float] = {}
    for store in found.loaded.description.stores(workspace).values():
        for table in store.tables(["clip_id", "timestamps_s"]):
            for clip_id, times in zip(
                table["clip_id"].to_pylist(), table["timestamps_s"].to_pylist(), strict=True
            ):
                if times and np.isfinite(times[-1]) and times[-1] > 0:
                    last[clip_id] = max(last.get(clip_id, 0.0), times[-1])
    return np.array([last.get(clip_id, np.nan) for clip_id in found.data.clip_ids.tolist()])
