"""The files of a workspace as plain data for the report; what does not exist yet is None or empty."""

import re
import shlex
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from emi_ray.comparison import codes_of_clips
from emi_ray.config import WorkspaceConfig
from emi_ray.results.runs import Run, read_runs
from emi_ray.schema import MODALITIES, labels_of
from emi_ray.store.failures import read_failures
from emi_ray.store.feature_store import FeatureStore
from emi_ray.workspace import CLIPS, CONFIG, Workspace

_EXAMPLES = 3
# Quoted words, paths and numbers, which differ between clips that failed for the same reason.
_PARTICULARS = re.compile(r"'[^']*'|\"[^\"]*\"|\S*/\S+|\d+(?:\.\d+)?")


@dataclass(frozen=True)
class FeatureSet:
    """The features of one extractor.

    Attributes:
        modality: the modality.
        fingerprint: fingerprint of the features.
        description: content of ``_extractor.json``.
        num_steps: (n,) number of steps of each clip with features.
        num_missing: number of clips that lack the input.
        num_failed: number of clips whose extraction failed.
        num_untried: number of clips that have not been tried.
    """

    modality: str
    fingerprint: str
    description: Mapping[str, Any]
    num_steps: np.ndarray
    num_missing: int
    num_failed: int
    num_untried: int

    @property
    def extractor(self) -> str:
        return str(self.description.get("extractor", "unknown"))

    @property
    def feature_dim(self) -> int | None:
        return self.description.get("feature_dim")

    @property
    def median_steps(self) -> float | None:
        return float(np.median(self.num_steps)) if len(self.num_steps) else None

    @property
    def longest(self) -> int | None:
        return int(self.num_steps.max()) if len(self.num_steps) else None


@dataclass(frozen=True)
class FailureKind:
    """A group of failures whose reasons differ only in numbers, paths and quoted words.

    ``reason`` is the reason of the first clip, ``count`` the number of clips, ``clip_ids`` are a few examples.
    """

    modality: str
    extractor: str
    stage: str
    reason: str
    count: int
    clip_ids: tuple[str, ...]


@dataclass(frozen=True)
class Material:
    """The data of the report; the best run is first in ``runs``."""

    workspace: Workspace
    config: WorkspaceConfig | None
    clips: pa.Table | None
    feature_sets: Sequence[FeatureSet]
    failures: Sequence[FailureKind]
    runs: Sequence[Run]

    @property
    def place(self) -> str:
        """The option that names the workspace in a command."""
        return f"-w {shlex.quote(self.workspace.root)}"

    @property
    def corpus_kind(self) -> str | None:
        return self.config.corpus.kind if self.config else None

    def codes_of(self, clip_ids: Sequence[str]) -> np.ndarray:
        """Return the group (person) number (N,) of each clip; see :func:`emi_ray.resampling.codes_of`."""
        return codes_of_clips(self.workspace, clip_ids)

    @property
    def label_names(self) -> tuple[str, ...]:
        """The labels of the corpus; without a corpus, those that the runs have scores of, in snake case."""
        if self.clips is not None:
            return tuple(label.name for label in labels_of(self.clips.schema))
        prefix = "val_pearson_"
        scored = (key for run in self.runs for key in run.metrics if key.startswith(prefix))
        return tuple(dict.fromkeys(key.removeprefix(prefix) for key in scored))


def collect(workspace: Workspace) -> Material:
    """Read everything except features and predictions."""
    clips = workspace.clips() if workspace.exists(CLIPS) else None
    failures = read_failures(workspace)
    num_clips = clips.num_rows if clips is not None else 0
    feature_sets = [_feature_set(store, failures, num_clips) for store in _stores(workspace)]
    return Material(
        workspace=workspace,
        config=workspace.config() if workspace.exists(CONFIG) else None,
        clips=clips,
        feature_sets=feature_sets,
        failures=_failure_kinds(failures, {each.fingerprint: each.extractor for each in feature_sets}),
        runs=read_runs(workspace),
    )


def _stores(workspace: Workspace) -> list[FeatureStore]:
    """Return all feature stores, including those that are empty because all clips failed."""
    return [
        FeatureStore(workspace, modality, fingerprint)
        for modality in MODALITIES
        for fingerprint in sorted(
            {*workspace.folders(f"features/{modality}"), *workspace.folders(f"failures/{modality}")}
        )
    ]


def _feature_set(store: FeatureStore, failures: pa.Table, num_clips: int) -> FeatureSet:
    described = store.workspace.exists(f"{store.folder}/_extractor.json")
    steps = [table["num_steps"].to_numpy() for table in store.tables(["clip_id", "num_steps"])]
    num_steps = np.concatenate([np.empty(0, np.int32), *steps])
    stages = failures.filter(pc.equal(failures["fingerprint"], store.fingerprint))["stage"]
    num_missing = pc.sum(pc.equal(stages, "missing")).as_py() or 0
    num_failed = len(stages) - num_missing
    return FeatureSet(
        modality=store.modality,
        fingerprint=store.fingerprint,
        description=store.describe() if described else {},
        num_steps=num_steps,
        num_missing=num_missing,
        num_failed=num_failed,
        # Features of clips that left the corpus can make the difference negative.
        num_untried=max(0, num_clips - len(num_steps) - len(stages)),
    )


def _failure_kinds(failures: pa.Table, extractors: Mapping[str, str]) -> list[FailureKind]:
    """Group failures by modality, extractor, stage and kind of reason, the most frequent first."""
    groups: dict[tuple[str, str, str, str], list[Mapping[str, str]]] = defaultdict(list)
    for row in failures.to_pylist():
        kind = _PARTICULARS.sub("…", row["error"])
        groups[row["modality"], row["fingerprint"], row["stage"], kind].append(row)
    kinds = [
        FailureKind(
            modality=modality,
            extractor=extractors[fingerprint],
            stage=stage,
            reason=rows[0]["error"],
            count=len(rows),
            clip_ids=tuple(row["clip_id"] for row in rows[:_EXAMPLES]),
        )
        for (modality, fingerprint, stage, _), rows in groups.items()
    ]
    order = {modality: index for index, modality in enumerate(MODALITIES)}
    return sorted(kinds, key=lambda kind: (order[kind.modality], kind.extractor, -kind.count))  # type: ignore[index]
