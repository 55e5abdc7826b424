"""Small studies for tests, whose scores are made up or quick to train."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from emi_ray.settings import validate
from emi_ray.training.data.clip_data import ClipData
from emi_ray.training.data.split_rows import split_rows
from emi_ray.tuning.objective import TrialScore
from emi_ray.tuning.samplers import SamplerName, SchedulerName, build_sampler, build_scheduler
from emi_ray.tuning.search_space import SearchSpace
from emi_ray.tuning.settings import Cost, RecipeSource, StudySettings
from emi_ray.tuning.storage import driving
from emi_ray.tuning.study import TuningStudy
from emi_ray.tuning.tuning_data import TuningData
from emi_ray.workspace import Workspace

SMALL = tuple(f"encoders.{modality}.hidden=16" for modality in ("text", "audio", "vision"))
SOURCE = RecipeSource("f1", (*SMALL, "fusion.hidden=16", "training.epochs=9"), {})
SPACE = {
    "fusion.dropout": {"uniform": [0.1, 0.7]},
    "fusion.hidden": {"choice": [8, 16, 32]},
    "fusion.lr": {"loguniform": [1e-4, 1e-2]},
}


def settings_of(
    space: dict | None = None, minimise: Cost | None = None, metric: str = "val_pearson"
) -> StudySettings:
    checked = validate(SearchSpace, {"parameters": space or SPACE}, "space")
    return StudySettings(
        recipe=SOURCE.original, space=checked, data_key="made up", minimise=minimise, metric=metric
    )


@contextmanager
def open_study(
    workspace: Workspace,
    settings: StudySettings | None = None,
    scheduler: SchedulerName = "none",
    sampler: SamplerName = "tpe",
    storage: str | None = None,
) -> Iterator[TuningStudy]:
    """A study that has begun, driven by this process while the block lasts."""
    settings = settings or settings_of()
    with driving(workspace, "s", settings.directions, storage) as held:
        chosen = build_sampler(sampler, 0, len(held.trials))
        study = TuningStudy(held, settings, SOURCE, chosen, build_scheduler(scheduler, settings.num_steps))
        study.begin()
        yield study


def score_of(value: float, num_parameters: int = 100, seconds: float = 1.0) -> TrialScore:
    return TrialScore(value, num_parameters, seconds, seconds, (1,), (value,))


def run_made_up(study: TuningStudy, how_many: int, curve: Sequence[float] = (0.2, 0.6, 1.0)) -> None:
    """Run trials whose score is their dropout, reached along a curve, until so many more are finished."""
    until = study.counts.finished + how_many
    while study.counts.finished < until:
        candidate = study.ask()
        assert candidate is not None
        value = 0.7 - abs(float(candidate.values["fusion.dropout"]) - 0.3)
        for step, share in enumerate(curve, start=1):
            if study.report(candidate.number, step, share * value):
                study.prune(candidate.number)
                break
        else:
            study.complete(candidate.number, score_of(value))


def whole_as_tuning_data(data: ClipData) -> TuningData:
    """Validate on val: good enough where nothing is judged."""
    return TuningData(data, (split_rows(data),))
