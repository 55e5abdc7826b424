"""``emi-ray init``: create a workspace from a corpus."""

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from emi_ray.config import CorpusSettings, WorkspaceConfig
from emi_ray.corpus.files import absolute
from emi_ray.corpus.listing import Finding, about, ids_where
from emi_ray.corpus.manifest import ADAPTORS, Corpus, conform, read_corpus
from emi_ray.errors import UserError, choices
from emi_ray.schema import MEDIA_COLUMNS
from emi_ray.settings import read_yaml, validate
from emi_ray.workspace import CLIPS, CONFIG, Workspace


def init_workspace(workspace: Workspace, kind: str, source: str, overrides: Sequence[str] = ()) -> Corpus:
    """Read and check a corpus, then write ``emi_ray.yaml`` and ``clips.parquet``.

    An existing ``emi_ray.yaml`` keeps its settings, except for the location of the corpus and ``overrides``.
    Nothing is written if the corpus is refused.

    Args:
        overrides: items of the form ``section.key=value``, for example ``corpus.label_ranges.Joy=[0, 100]``.

    Raises:
        UserError: a setting is invalid, or the corpus has errors.
    """
    if kind not in ADAPTORS:
        raise UserError(f"--corpus '{kind}': {choices(kind, ADAPTORS)}")
    config = _config(workspace, kind, absolute(source), overrides)
    corpus = read_corpus(kind, absolute(source), config.corpus)
    findings = (*_changed_inputs(workspace, corpus.clips), *corpus.findings)
    workspace.write_config(config)
    workspace.write_table(CLIPS, corpus.clips)
    return Corpus(corpus.clips, findings)


def read_again(settings: CorpusSettings) -> pa.Table | None:
    """Return the clips as :func:`init_workspace` would write them now, without checks; None if no adaptor has read
    them.

    Raises:
        UserError: the source cannot be read.
    """
    if settings.kind not in ADAPTORS or settings.source is None:
        return None
    return conform(ADAPTORS[settings.kind](settings.source, settings), settings)


def _config(workspace: Workspace, kind: str, source: str, overrides: Sequence[str]) -> WorkspaceConfig:
    where = workspace.path(CONFIG)
    values = read_yaml(workspace.read_text(CONFIG), where) if workspace.exists(CONFIG) else {}
    values["corpus"] = {**(values.get("corpus") or {}), "kind": kind, "source": source}
    return validate(WorkspaceConfig, values, where, overrides)


def _changed_inputs(workspace: Workspace, clips: pa.Table) -> list[Finding]:
    """Report clips whose media or transcripts have changed, if the workspace has features already."""
    if not workspace.exists(CLIPS) or not workspace.files("features", recursive=True):
        return []
    before = workspace.read_table(CLIPS, ["clip_id", *MEDIA_COLUMNS])
    both = clips.select(before.column_names).join(
        before, "clip_id", join_type="inner", right_suffix=" before", use_threads=False
    )
    changed = pa.chunked_array([pa.repeat(False, both.num_rows)])
    for name in MEDIA_COLUMNS:
        now, then = (pc.fill_null(both[column], "") for column in (name, f"{name} before"))
        changed = pc.or_(changed, pc.not_equal(now, then))
    message = (
        f"{workspace.root}: these clips have other media or transcripts than before. emi-ray extract computes their "
        "features again if the content has changed"
    )
    return about("info", message, sorted(ids_where(both, changed)))
