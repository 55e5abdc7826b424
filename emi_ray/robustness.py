"""Robustness of a run: scores with some modalities hidden, on clips that lack a modality, and by clip length.

All scores are computed from stored features and the run's model. Noisy sound and wrong words need a new extraction;
see ``perturbation.py``.
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
from emi_ray.results.runs import ROBUSTNESS
from emi_ray.training.data.clip_data import ClipData
from emi_ray.training.run_files import predict_rows, without_nan
from emi_ray.workspace import Workspace

_ALL_SUBSETS = 4
"""With at most this many encoders, all subsets are scored; with more, only all, all but one, and each alone."""

_FEWEST = 10
_PARTS = 4


def measure_robustness(workspace: Workspace, run: str) -> dict[str, Any]:
    """Measure the robustness of a run on its validation clips, and write ``robustness.json`` to its folder.

    Returns:
        ``subsets``: scores when the model sees only some of its inputs, over the clips that have all of them;
        ``lacking``: scores over the clips that lack an input; ``lengths``: scores over quarters of the clips by
        duration. Each entry has ``name``, ``num_clips``, ``val_pearson`` (mean over labels; None if undefined), and
        the ends ``low`` and ``high`` of its 95 % confidence interval. ``run_key`` identifies the training.

    Raises:
        UserError: in the same cases as :func:`emi_ray.evaluation.evaluate_single_run`.
    """
    found = read_run(workspace, run)
    data, val = found.data, found.rows.val
    streams = list(found.loaded.model.modalities)
    present = {stream: data.features[stream].present[val] for stream in streams}
    # All subsets are scored on the same clips, so that their scores can be compared.
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
    """Return the same clips, with the input of some encoders marked as missing."""
    nothing = np.zeros(len(data), dtype=np.int64)
    changed = {
        name: replace(features, starts=nothing, lengths=nothing, present=nothing > 0)
        if name in streams
        else features
        for name, features in data.features.items()
    }
    return data.with_features(changed)


def score_entry(
    workspace: Workspace, name: str, clip_ids: Sequence[str], predicted: np.ndarray, true: np.ndarray
) -> dict[str, Any]:
    """Return one entry of the result: ``name`` and the score of predictions (N, L) against true labels (N, L)."""
    interval = pearson_intervals(predicted, true, codes_of_clips(workspace, clip_ids)).mean
    return {
        "name": name,
        "num_clips": len(clip_ids),
        "val_pearson": mean_score("pearson", predicted, true),
        "low": interval.low,
        "high": interval.high,
    }


class _Scorer:
    def __init__(self, workspace: Workspace, found: RunData) -> None:
        self._workspace, self._found = workspace, found

    def of(self, name: str, rows: np.ndarray, data: ClipData) -> dict[str, Any]:
        predicted = predict_rows(self._found.loaded.model, data, rows)
        return score_entry(self._workspace, name, data.clip_ids[rows].tolist(), predicted, data.targets[rows])


def _subsets(streams: Sequence[str]) -> list[tuple[str, ...]]:
    """Return the subsets of encoders to score, the largest first; see :data:`_ALL_SUBSETS`."""
    sizes = range(len(streams), 0, -1)
    if len(streams) > _ALL_SUBSETS:
        sizes = sorted({len(streams), len(streams) - 1, 1}, reverse=True)  # type: ignore[assignment]
    return [kept for size in sizes for kept in combinations(streams, size)]


def _by_length(score: _Scorer, seconds: np.ndarray, val: np.ndarray) -> list[dict[str, Any]]:
    timed, known = val[np.isfinite(seconds)], seconds[np.isfinite(seconds)]
    if len(timed) < _PARTS * _FEWEST or known.min() == known.max():
        return []
    edges = np.quantile(known, np.linspace(0, 1, _PARTS + 1))
    # The longest clip is on the last edge and would otherwise be in a fifth part.
    part = np.clip(np.searchsorted(edges, known, side="right") - 1, 0, _PARTS - 1)
    names = [f"{low:.1f} to {high:.1f} s" for low, high in pairwise(edges)]
    chosen = [(name, timed[part == index]) for index, name in enumerate(names)]
    return [score.of(name, rows, score._found.data) for name, rows in chosen if len(rows) >= _FEWEST]


def _seconds(workspace: Workspace, found: RunData) -> np.ndarray:
    """Return the time of the last step of each clip, (N,) in seconds, over all its features; NaN if unknown."""
    last: dict[str, float] = {}
    for store in found.loaded.description.stores(workspace).values():
        for table in store.tables(["clip_id", "timestamps_s"]):
            for clip_id, times in zip(
                table["clip_id"].to_pylist(), table["timestamps_s"].to_pylist(), strict=True
            ):
                # Unknown times are NaN, and a time of 0 says nothing about the length.
                if times and np.isfinite(times[-1]) and times[-1] > 0:
                    last[clip_id] = max(last.get(clip_id, 0.0), times[-1])
    return np.array([last.get(clip_id, np.nan) for clip_id in found.data.clip_ids.tolist()])
