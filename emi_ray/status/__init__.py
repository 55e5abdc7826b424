"""Determine what in a workspace is current, stale, missing or quarantined, and which commands bring it up to date.

corpus.py       the clips, compared with their source
features.py     features and recognised transcripts
models.py       encoders, runs, studies
ensembles.py    ensembles of runs
predictions.py  predictions of new clips
"""

from collections.abc import Sequence

from emi_ray.config import WorkspaceConfig
from emi_ray.status.corpus import corpus_line
from emi_ray.status.ensembles import ensemble_lines
from emi_ray.status.features import feature_lines
from emi_ray.status.models import encoder_line, run_lines, study_lines
from emi_ray.status.predictions import prediction_lines
from emi_ray.status.status_line import Line, Status
from emi_ray.workspace import Workspace

__all__ = ["Line", "Status", "read_status"]


def read_status(workspace: Workspace, config: WorkspaceConfig) -> Status:
    """Determine the status of everything in a workspace.

    Nothing is changed, and media are read only if their size or time has changed.

    Raises:
        UserError: the workspace has no corpus.
    """
    # Everything below is compared with the clips as the source has them now.
    corpus, clips = corpus_line(workspace, config.corpus, workspace.clips())
    features = list(feature_lines(workspace, config, clips))
    # Features that have to be extracted again make everything stale that was trained on them.
    pending = {line.fingerprint for line in features if line.command}
    runs = run_lines(workspace, clips, config, pending)
    # In the order of dependence: an ensemble is stale if a member is.
    stale = {line.name for line in runs if line.stale}
    ensembles = list(ensemble_lines(workspace, clips, config, stale))
    lines: Sequence[Line] = [
        *corpus,
        *features,
        *encoder_line(workspace, runs),
        *runs,
        *ensembles,
        *study_lines(workspace, config, any(line.command for line in corpus), pending),
        *prediction_lines(workspace, [*runs, *ensembles]),
    ]
    return Status(tuple(lines))
