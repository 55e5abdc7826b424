"""The folders of each modality: ``LAYOUTS`` for reading, ``EXPORTS`` for writing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pyarrow import fs

from emi_ray.corpus.files import join, kind_of
from emi_ray.errors import UserError, choices
from emi_ray.exchange.sources import FolderSource, Source
from emi_ray.exchange.tables import open_table
from emi_ray.schema import MODALITIES, Modality

NOMINAL_RATE_HZ = 1.0
"""Rate in Hz if the number of steps per second is unknown; timestamps then count steps."""


@dataclass(frozen=True)
class Part:
    """The location of one modality in a layout.

    Args:
        folder: path below the source.
        rate_hz: steps per second; None if the layout does not define it.
        zero_is_missing: whether a vector of zeros stands for a clip that lacks the modality.
    """

    folder: str
    rate_hz: float | None = None
    zero_is_missing: bool = False


@dataclass(frozen=True)
class Layout:
    """A layout of features.

    Attributes:
        parts: by modality; empty if the user states with ``--modality`` what the source contains.
        pads_ids: whether ids are Hume's 5 digits, whatever their spelling.
        is_file: whether the source is a file.
    """

    title: str
    parts: Mapping[Modality, Part]
    pads_ids: bool = False
    is_file: bool = False


_MIMICMETRICS: Mapping[Modality, Part] = {
    "text": Part("embeddings/text", zero_is_missing=True),
    "audio": Part("embeddings/audio"),
    "vision": Part("embeddings/face"),
    "motion": Part("motion"),
}

LAYOUTS: Mapping[str, Layout] = {
    "mimicmetrics": Layout(
        "embeddings/{face,audio,text}/<id>.pkl, motion/<id>.pkl and the split CSVs",
        _MIMICMETRICS,
        pads_ids=True,
    ),
    "organisers": Layout(
        "vit/<id>.pkl (T, 384), wav2vec2/<id>.pkl (T, 768) and the split CSVs of Hume-Vidmimic2",
        {"vision": Part("vit", rate_hz=6.0), "audio": Part("wav2vec2", rate_hz=50.0)},
        pads_ids=True,
    ),
    "folder": Layout("one file per clip: <id>.npy, .pt, .safetensors or .pkl; needs --modality", {}),
    "table": Layout("one .npz, .h5 or .parquet with all clips; needs --modality", {}, is_file=True),
}

EXPORTS: Mapping[str, Mapping[Modality, Part]] = {
    "mimicmetrics": _MIMICMETRICS,
    "folder": {modality: Part("") for modality in MODALITIES},
}


@dataclass(frozen=True)
class OpenPart:
    """The features of one modality in a source."""

    source: Source
    part: Part


def open_layout(layout: str, source: str, modality: Modality | None) -> Sequence[OpenPart]:
    """Return the modalities in a source, or only the given one.

    Raises:
        UserError: the layout is unknown, the source has nothing of it, or the modality is not given.
    """
    if layout not in LAYOUTS:
        raise UserError(f"--layout '{layout}': {choices(layout, LAYOUTS)}")
    kind, wanted = kind_of(source), LAYOUTS[layout]
    expected = fs.FileType.File if wanted.is_file else fs.FileType.Directory
    if kind != expected:
        raise UserError(f"--source {source}: there is no such {'file' if wanted.is_file else 'folder'}.")
    if not wanted.parts:
        if modality is None:
            raise UserError(
                f"--layout {layout} does not define the modality. Add --modality, one of: "
                f"{', '.join(MODALITIES)}."
            )
        found = open_table(modality, source) if wanted.is_file else FolderSource(modality, source)
        return [OpenPart(found, Part(""))]
    if modality is not None and modality not in wanted.parts:
        raise UserError(f"--layout {layout} has no {modality}: {choices(modality, wanted.parts)}")
    return _parts_there(layout, source, modality)


def _parts_there(layout: str, source: str, modality: Modality | None) -> Sequence[OpenPart]:
    chosen = {m: part for m, part in LAYOUTS[layout].parts.items() if modality in (None, m)}
    there = [
        OpenPart(FolderSource(m, join(source, part.folder)), part)
        for m, part in chosen.items()
        if kind_of(join(source, part.folder)) == fs.FileType.Directory
    ]
    if not there:
        folders = ", ".join(part.folder for part in chosen.values())
        raise UserError(f"--source {source} contains none of {folders}. Give the folder above them.")
    return there
