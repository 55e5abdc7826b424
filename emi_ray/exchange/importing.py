"""Import existing features into the store.

The store uses float16, or float32 if float16 would lose the variation of a dimension over all clips. Features that
float32 cannot represent well enough either are refused. A clip with a value that is not finite is quarantined. The
rounding error is measured (``ImportedPart.rounding``); it is zero if all values are float16 already.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from emi_ray.corpus.files import absolute
from emi_ray.corpus.listing import Finding
from emi_ray.errors import EmiRayError, UserError
from emi_ray.exchange.clips import init_from_features, match_ids
from emi_ray.exchange.layouts import LAYOUTS, NOMINAL_RATE_HZ, OpenPart, open_layout
from emi_ray.exchange.sources import Source
from emi_ray.exchange.storing import ImportedPart, PartWriter, failure_of
from emi_ray.exchange.tables import ParquetSource
from emi_ray.extractors import EXTRACTORS
from emi_ray.extractors.base import fingerprint
from emi_ray.schema import EMOTION_LABELS, Modality, labels_of, snake
from emi_ray.store.failures import write_failures
from emi_ray.store.feature_precision import spread_of
from emi_ray.store.feature_store import FeatureStore, stores_of
from emi_ray.store.part_rows import first_rows
from emi_ray.workspace import Workspace

VERSION = 1
NUM_PROBED = 32
"""Number of clips that are read to determine the feature size, as the most frequent one."""

Progress = Callable[[int, int, str], None]
"""Called with (number of clips done, total number of clips, description)."""


@dataclass(frozen=True)
class Imported:
    """The result of an import. ``findings`` are about the corpus if the import has created it."""

    parts: Sequence[ImportedPart]
    findings: Sequence[Finding] = ()


def import_features(
    workspace: Workspace,
    layout: str,
    source: str,
    modality: Modality | None = None,
    *,
    name: str | None = None,
    splits: str | None = None,
    rate_hz: float | None = None,
    extend: bool = False,
    overrides: Sequence[str] = (),
    on_progress: Progress = lambda done, total, title: None,
) -> Imported:
    """Import existing features into the store. Creates the workspace if it does not exist.

    The fingerprint is a hash of the layout, the name and the content of all files: equal features have the same
    fingerprint anywhere, and changed features another one. After an interruption, the next call continues. Memory
    holds one part (16 MiB of float16, or one clip) and one file at a time.

    Args:
        layout: a key of ``LAYOUTS``.
        source: the folder or file; a local path or a URI.
        modality: only this modality; required for the layouts ``folder`` and ``table``.
        name: name of these features in recipes (``encoders.vision.features=NAME``); by default
            ``imported-LAYOUT-MODALITY``.
        splits: location of the splits and labels of a new workspace; by default the split CSVs in ``source``.
        rate_hz: steps per second, for timestamps. By default 6 for the organisers' vit and 50 for their wav2vec2;
            otherwise unknown, and timestamps count steps as if there was one per second.
        extend: update an earlier import after the source has got more clips, or other features of some clips. New
            clips join the corpus, and features are added or replaced under the same fingerprint, so that models
            trained on these features can be applied to the new clips.
        overrides: items of the form ``section.key=value`` for a new workspace, for example ``corpus.labels=[Joy]``.

    Raises:
        UserError: the layout, the source, the name or the corpus is invalid.
        EmiRayError: no clip of a modality could be imported.
    """
    source = absolute(source)
    opened = [part for part in open_layout(layout, source, modality) if part.source.ids()]
    if not opened:
        raise UserError(
            f"--source {source}: it has no feature files. Layout {layout}: {LAYOUTS[layout].title}."
        )
    _check_name(name, opened)
    # The corpus is made from the ids of all parts, because a clip may lack some modality.
    spelled = {clip_id for part in opened for clip_id in part.source.ids()}
    pads_ids = LAYOUTS[layout].pads_ids
    findings = init_from_features(
        workspace, source, splits, spelled, pads_ids=pads_ids, extend=extend, overrides=overrides
    )
    for part in opened:
        _refuse_labels(workspace, part.source)
    parts = []
    for part in opened:
        on_progress(0, 0, f"Reading {part.source.place}")
        identity = _identify(layout, part, name, rate_hz)
        store = _store(workspace, identity, extend)
        parts.append(_import_part(store, identity, part, on_progress, replaces=extend))
    return Imported(parts, findings)


def _check_name(name: str | None, opened: Sequence[OpenPart]) -> None:
    if name is None:
        return
    if name in EXTRACTORS:
        raise UserError(f"--name '{name}' is the name of an extractor. Give another name.")
    if len(opened) > 1:
        raise UserError(
            f"--name '{name}' would name the features of {len(opened)} modalities. Add --modality."
        )


def _refuse_labels(workspace: Workspace, source: Source) -> None:
    """Refuse a table with labels among the features, because a model would get the values that it has to predict.

    Raises:
        UserError: the table has such columns.
    """
    if not isinstance(source, ParquetSource):
        return
    labels = {snake(label.name) for label in (*labels_of(workspace.clips().schema), *EMOTION_LABELS)}
    if found := [name for name in source.feature_names() if snake(name) in labels]:
        raise UserError(
            f"{source.place}: labels are among the feature columns ({', '.join(found)}). Remove them from this "
            "table, and give a table of labels with --splits."
        )


def _identify(layout: str, opened: OpenPart, name: str | None, rate_hz: float | None) -> dict[str, Any]:
    """Return the identity that the fingerprint is a hash of."""
    modality, rate = opened.source.modality, rate_hz or opened.part.rate_hz
    return {
        "extractor": name or f"imported-{layout}-{modality}",
        "modality": modality,
        "version": VERSION,
        "settings": {"layout": layout, "content": opened.source.digest(), "rate_hz": rate},
        "media": {},
    }


def _store(workspace: Workspace, identity: Mapping[str, Any], extend: bool) -> FeatureStore:
    modality, name = identity["modality"], identity["extractor"]
    if not extend:
        return FeatureStore(workspace, modality, fingerprint(identity))
    held = [store for store in stores_of(workspace, modality) if store.describe()["extractor"] == name]
    if len(held) != 1:
        raise UserError(
            f"--extend: {workspace.root} has {len(held)} sets of {modality} features named '{name}', not one. "
            "Import without --extend, and train again."
        )
    return held[0]


def _import_part(
    store: FeatureStore,
    identity: Mapping[str, Any],
    opened: OpenPart,
    on_progress: Progress,
    replaces: bool = False,
) -> ImportedPart:
    source, workspace = opened.source, store.workspace
    spelled = match_ids(source.ids(), workspace.clips(["clip_id"])["clip_id"].to_pylist())
    rows = first_rows(store.held.record())
    held = dict(zip(rows["clip_id"].to_pylist(), rows["digest"].to_pylist(), strict=True))
    result = ImportedPart(store.modality, identity["extractor"], store.fingerprint, num_before=len(held))
    result.num_unknown = len(source.ids()) - len(spelled)
    if not spelled:
        raise UserError(
            f"{source.place}: none of its {len(source.ids()):,} ids (for example {source.ids()[0]}) is a clip of "
            f"{workspace.root}. Import into a new workspace, or name the files by the ids in clips.parquet."
        )
    todo = {spelling: clip_id for clip_id, spelling in spelled.items() if replaces or clip_id not in held}
    result.feature_dim = store.feature_dim if held else _usual_dim(opened, sorted(spelled.values()))
    if result.feature_dim:
        _settle(store, identity, source, sorted(spelled.values()), result)
    _write_missing(store, source.place, {*spelled, *held}, result)
    rate_hz = identity["settings"]["rate_hz"] or NOMINAL_RATE_HZ
    writer = PartWriter(store, result, rate_hz, opened.part.zero_is_missing, held)
    for done, (spelling, values) in enumerate(source.arrays(todo), start=1):
        writer.add(todo[spelling], values)
        on_progress(done, len(todo), f"Importing {store.modality}")
    writer.flush()
    if replaces:
        store.held.tidy()  # an earlier --extend that was killed may have left two rows of a clip
    _refuse_nothing(result, source.place)
    return result


def _settle(
    store: FeatureStore,
    identity: Mapping[str, Any],
    source: Source,
    spelled: Sequence[str],
    result: ImportedPart,
) -> None:
    """Create a new store, and choose the precision that keeps the variation of all clips.

    Raises:
        UserError: even float32 is not sufficient.
    """
    store.create(identity, result.feature_dim)
    if not store.is_settled:
        # The source is read once more for this: the precision must be known before the first part is written.
        spread = spread_of(
            values
            for _, values in source.arrays(spelled)
            if isinstance(values, np.ndarray) and values.shape[1] == result.feature_dim
        )
        precision = spread.precision
        if precision is None:
            loss, dimension = spread.loss("float32")
            raise UserError(
                f"{source.place}: {spread.describe(dimension)}, and float32, the highest precision of the store, "
                f"would lose {min(loss, 1.0):.0%} of that. Subtract each dimension's mean and import again."
            )
        loss, dimension = spread.loss("float16")
        why = "" if precision == "float16" else _why_single(loss, spread.describe(max(dimension, 0)))
        store.settle_precision(precision, why)
    result.dtype = str(store.dtype)


def _why_single(loss: float, dimension: str) -> str:
    if np.isinf(loss):
        return "a feature is beyond the range of float16"
    return f"{dimension}, and float16 would lose {min(loss, 1.0):.0%} of that"


def _usual_dim(opened: OpenPart, spelled: Sequence[str]) -> int:
    """Return the most frequent size of the first clips; 0 if none can be read."""
    probed = opened.source.arrays(spelled[:NUM_PROBED])
    # The most frequent size, because the first clip itself may be the faulty one.
    dims = Counter(values.shape[1] for _, values in probed if isinstance(values, np.ndarray))
    return dims.most_common(1)[0][0] if dims else 0


def _write_missing(store: FeatureStore, place: str, known: Collection[str], result: ImportedPart) -> None:
    """Record the clips of the corpus that have features neither in the source nor from an earlier import."""
    clip_ids = store.workspace.clips(["clip_id"])["clip_id"].to_pylist()
    absent = [clip_id for clip_id in clip_ids if clip_id not in known]
    reason = f"no features of this clip in {place}"
    write_failures(store.workspace, [failure_of(store, clip_id, "missing", reason) for clip_id in absent])
    result.num_missing += len(absent)


def _refuse_nothing(result: ImportedPart, place: str) -> None:
    if result.num_imported or result.num_before:
        return
    reason = next(iter(result.reasons.values()), "no clip has any")
    raise EmiRayError(
        f"{place}: no {result.modality} features could be imported. The first reason: {reason}."
    )
