"""Read clips that a model has never seen, and determine the folder for what is made from them.

The features for one run and one set of ``sources`` are in one folder, ``predictions/RUN/DIGEST`` of the workspace.
Its name depends only on the names of the sources, not on their content: when a file is overwritten or a table is
corrected, the same command finds the folder again, and processes only clips with changed content.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from emi_ray.config import CorpusSettings, WorkspaceConfig
from emi_ray.corpus.files import absolute
from emi_ray.corpus.folder import read_media
from emi_ray.corpus.manifest import Corpus, validate_corpus
from emi_ray.corpus.table import read_clips
from emi_ray.errors import UserError
from emi_ray.schema import Modality
from emi_ray.settings import validate
from emi_ray.workspace import Workspace, suffix_of

TABLE_SUFFIXES = (".csv", ".tsv", ".txt", ".parquet", ".pq")
RECORD = "prediction.json"


@dataclass(frozen=True)
class Round:
    """One extraction for a prediction: at most one extractor of each modality."""

    config: WorkspaceConfig
    modalities: tuple[Modality, ...]


@dataclass(frozen=True)
class Written:
    """The file that predictions were written to (an absolute path or a URI), and options of ``emi-ray predict``."""

    to: str
    form: str = "table"
    id_width: int | None = None


@dataclass(frozen=True)
class Record:
    """``prediction.json``: the models, sources and extractions of a prediction.

    Attributes:
        run_keys: key of the model, or keys of an ensemble's members in order.
        sources: absolute paths and URIs, for :func:`read_sources`.
        finished: whether the prediction was completed.
        written: the last file that the predictions were written to.
    """

    run_keys: tuple[str, ...]
    sources: tuple[str, ...]
    rounds: tuple[Round, ...]
    finished: bool = False
    written: Written | None = None

    def write(self, place: Workspace) -> None:
        rounds = [
            {"config": each.config.model_dump(mode="json"), "modalities": list(each.modalities)}
            for each in self.rounds
        ]
        values = {
            "run_keys": list(self.run_keys),
            "sources": list(self.sources),
            "rounds": rounds,
            "finished": self.finished,
            "written": self.written and asdict(self.written),
        }
        place.write_json(RECORD, values)


def read_record(place: Workspace) -> Record:
    """Read the file of :meth:`Record.write`.

    Raises:
        UserError: it was written by another version.
    """
    values = place.read_json(RECORD)
    where = place.path(RECORD)
    if "rounds" not in values:
        raise UserError(f"{where} was written by another version: predict these clips again.")
    rounds = [
        Round(validate(WorkspaceConfig, each["config"], where), tuple(each["modalities"]))
        for each in values["rounds"]
    ]
    written = values["written"] and Written(**values["written"])
    return Record(
        tuple(values["run_keys"]), tuple(values["sources"]), tuple(rounds), values["finished"], written
    )


def read_sources(workspace: Workspace, sources: Sequence[str]) -> Corpus:
    """Read the clips in media files, folders of media files, or one table.

    Only ids, media and transcripts of a table are read; its splits, groups and labels are ignored.

    Raises:
        UserError: a source does not exist, is not media, or is a table that cannot be read.
    """
    if len(sources) == 1 and suffix_of(sources[0]) in TABLE_SUFFIXES:
        # A table of new clips probably has the encoding of the corpus.
        listing = read_clips(sources[0], workspace.config().corpus.encoding)
    else:
        listing = read_media(sources)
    # Default settings: the ranges and labels of the corpus do not concern clips without labels.
    return validate_corpus(listing, CorpusSettings())


def place_of(workspace: Workspace, run: str, sources: Sequence[str]) -> Workspace:
    """Return the workspace folder with the features of these sources for this run."""
    # Absolute, so that a relative name is the same place from any working directory.
    named = "\n".join(map(absolute, sources))
    return workspace.inner(f"predictions/{run}/{hashlib.blake2b(named.encode(), digest_size=6).hexdigest()}")
