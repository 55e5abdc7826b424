"""Compare trials per hour of `emi-ray tune` and of sequential Optuna loops, on the same features and trials.

    python benchmarks/tuning.py --authors PATH_TO/staged_fusion_training.py --trials 16 --epochs 12

Three searches over the settings of the fusion run one after the other, each over the same list of parameters,
with as many epochs, no early stopping and stage-1 encoders that are trained beforehand and reused: (a) a
sequential Optuna loop around the authors' script, one process a trial; (b) a sequential Optuna loop around our
own training, in one process; ours, under Ray. Half of (b) runs before ours and half after: the machine drifts.
Choose epochs so that a trial of (b) takes about 10 s.
Ray's overhead a trial is what its processes were busy or idle for beyond the training itself.

With ``--memory`` it then runs as many trials at once as each number says, and measures the features' pages in
shared memory, each counted once however many processes map it, and what each trial's process has for itself.
"""

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import psutil
from authors_script import AuthorsScript
from made_features import PAPER_DIMS, PAPER_STEPS, make_clips
from made_workspace import write_workspace

from emi_ray.config import WorkspaceConfig
from emi_ray.runtime import ray_session
from emi_ray.settings import validate
from emi_ray.training.plan import RunPlan, plan_run
from emi_ray.training.stages.encoder_cache import WorkspaceEncoderCache
from emi_ray.tuning.objective import score_recipe
from emi_ray.tuning.ray_search import SharedData, plan_resources, search, share_data
from emi_ray.tuning.samplers import build_sampler, build_scheduler
from emi_ray.tuning.search_space import SearchSpace
from emi_ray.tuning.settings import RecipeSource, StudySettings
from emi_ray.tuning.storage import driving
from emi_ray.tuning.study import TuningStudy
from emi_ray.tuning.tune_adapters import SearchLimits
from emi_ray.tuning.tuning_data import TuningData, read_tuning_data
from emi_ray.workspace import Workspace

MODALITIES = ("text", "audio", "vision")
STAGE_1_EPOCHS = 2
MB = 1e6
SPACE = {
    "fusion.dropout": {"uniform": [0.1, 0.7]},
    "fusion.modality_dropout": {"uniform": [0.0, 0.6]},
    "fusion.hidden": {"choice": [128, 256, 384]},
    "fusion.lr": {"loguniform": [5e-5, 1e-3]},
}
FLAGS = {
    "fusion.dropout": "dropout",
    "fusion.modality_dropout": "modality_drop_prob",
    "fusion.hidden": "fusion_hidden",
    "fusion.lr": "lr",
}
"""What the authors' script calls them."""

Parameters = dict[str, Any]


@dataclass(frozen=True)
class Setting:
    """One search: its workspace, its parameters and its trials."""

    workspace: Workspace
    source: RecipeSource
    settings: StudySettings
    plan: RunPlan
    trials: Sequence[Parameters]


def main() -> None:
    options = _options()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        setting = _prepare(options, Path(folder))
        started = time.perf_counter()
        data = read_tuning_data(setting.plan, setting.settings)
        reading = time.perf_counter() - started
        size = sum(packed.values.nbytes for packed in data.clips.features.values()) / MB
        rows = data.folds[0]
        print(f"{len(rows.train)} + {len(rows.val)} clips, {size:.0f} MB of features, {os.cpu_count()} cores")
        seconds: dict[str, float] = {}
        if options.authors:
            seconds[f"(a) authors, of {options.authors_trials} trials"] = _authors(
                options, setting, data, Path(folder) / "authors"
            )
        else:
            print("No --authors: their script is not there, so (a) is skipped.")
        half = len(setting.trials) // 2
        before = _in_a_row(setting, data, setting.trials[:half])
        with ray_session():
            started = time.perf_counter()
            shared = share_data(setting.plan, setting.settings)
            reading_shared = time.perf_counter() - started
            ours = reading_shared + _under_ray(setting, shared, "speed")
        after = _in_a_row(setting, data, setting.trials[half:])
        del data
        seconds["(b) our fit, in a row"] = reading + before + after
        seconds["emi-ray tune"] = ours
        print(
            f"(b) took {before / half:.2f} s a trial before ours, {after / (len(setting.trials) - half):.2f} after"
        )
        _show(seconds, len(setting.trials))
        for at_once in options.memory:
            with ray_session():
                shared = share_data(setting.plan, setting.settings)
                _measure_memory(replace(setting, trials=setting.trials[: 2 * at_once]), shared, at_once)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--authors", type=Path, help="the authors' staged_fusion_training.py")
    parser.add_argument("--authors-trials", type=int, default=3, help="run by their script, minutes each")
    parser.add_argument("--trials", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=12, help="of the fusion")
    parser.add_argument("--clips", type=int, default=600)
    parser.add_argument("--audio-steps", type=int, default=PAPER_STEPS["audio"], help="median")
    parser.add_argument("--memory", type=int, nargs="*", default=[], help="trials at once: 1 2 4")
    parser.add_argument("--scratch", type=Path, default=None, help="folder for some GB of files")
    options = parser.parse_args()
    if options.trials < 2:
        parser.error("--trials: at least 2, half before our search and half after")
    return options


def _prepare(options: argparse.Namespace, folder: Path) -> Setting:
    """Return a workspace with simulated features, a study's settings, and trials drawn at random once."""
    dims = {modality: PAPER_DIMS[modality] for modality in MODALITIES}
    steps = {modality: PAPER_STEPS[modality] for modality in MODALITIES} | {"audio": options.audio_steps}
    made = make_clips(options.clips, options.clips // 10, seed=0, dims=dims, steps=steps)
    workspace = write_workspace(made.data, folder / "workspace")
    changes = [f"encoders.{modality}.epochs={STAGE_1_EPOCHS}" for modality in MODALITIES]
    changes += [f"encoders.{modality}.standardise=false" for modality in ("audio", "vision")]
    changes += [f"fusion.epochs={options.epochs}", "training.patience=null"]
    source = RecipeSource("f1", tuple(changes), {})
    space = validate(SearchSpace, {"parameters": SPACE}, "the benchmark's space")
    plan = plan_run(workspace, source.own, WorkspaceConfig(), source.own.training.seed)
    settings = StudySettings(recipe=source.own, space=space, data_key=plan.key)
    random = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    return Setting(
        workspace, source, settings, plan, [space.suggest(random.ask()) for _ in range(options.trials)]
    )


def _authors(options: argparse.Namespace, setting: Setting, data: TuningData, folder: Path) -> float:
    """Seconds of a sequential Optuna loop around the authors' script, whose stage 1 was trained beforehand.

    Timed over the first few trials and taken as often as there are trials: all do the same work.
    """
    script = AuthorsScript(options.authors.resolve(), folder)
    script.write_inputs(data.clips, data.folds[0])
    epochs = dict.fromkeys(MODALITIES, STAGE_1_EPOCHS)
    script.run(data.clips, {**epochs, "fusion": 1}, {})
    study = optuna.create_study(direction="maximize")
    started = time.perf_counter()
    chosen = setting.trials[: options.authors_trials]
    for parameters in chosen:
        study.enqueue_trial(parameters)
        trial = study.ask()
        values = setting.settings.space.suggest(trial)
        flags = {FLAGS[name]: value for name, value in values.items()} | {"patience": options.epochs + 1}
        done = script.run(data.clips, {**epochs, "fusion": options.epochs}, flags)
        study.tell(trial, max(epoch.val_pearson for epoch in done if epoch.stage == "fusion"))
    return (time.perf_counter() - started) / len(chosen) * len(setting.trials)


def _in_a_row(setting: Setting, data: TuningData, trials: Sequence[Parameters]) -> float:
    """Return the seconds of a sequential Optuna loop around our training, whose stage 1 was trained before."""
    cache = WorkspaceEncoderCache(setting.workspace)
    score_recipe(setting.source.load({"fusion.epochs": 1}), data, "val_pearson", encoder_cache=cache)
    study = optuna.create_study(direction="maximize")
    started = time.perf_counter()
    for parameters in trials:
        study.enqueue_trial(parameters)
        trial = study.ask()
        recipe = setting.source.load(setting.settings.space.suggest(trial))
        study.tell(trial, score_recipe(recipe, data, "val_pearson", encoder_cache=cache).value)
    return time.perf_counter() - started


def _under_ray(setting: Setting, shared: SharedData, name: str, concurrent: int | None = None) -> float:
    """Return the seconds of our search, from the start of its processes to the last trial; print Ray's overhead."""
    started = time.perf_counter()
    with driving(setting.workspace, name, setting.settings.directions) as held:
        for parameters in setting.trials:
            held.enqueue_trial(parameters)
        sampler, pruner = build_sampler("tpe", 0, 0), build_scheduler("none", setting.settings.num_steps)
        study = TuningStudy(held, setting.settings, setting.source, sampler, pruner)
        resources = plan_resources(setting.settings.recipe, shared, concurrent, None)
        search(study, shared, setting.workspace, resources, SearchLimits(len(setting.trials)))
        seconds = time.perf_counter() - started
        inside = np.mean([trial.user_attrs["wall_seconds"] for trial in held.get_trials(deepcopy=False)])
    overhead = seconds * resources.concurrent / len(setting.trials) - inside
    print(
        f"{resources.concurrent} trials at once: {inside:.2f} s of training a trial, and {overhead:.2f} s "
        f"({overhead / inside:.0%}) of Ray, start of the trials' processes included"
    )
    return seconds


def _show(seconds: dict[str, float], num_trials: int) -> None:
    print(f"\n{num_trials} trials{'':<16}{'seconds':>9}{'a trial':>9}{'an hour':>9}{'we are':>9}")
    ours = seconds["emi-ray tune"]
    for name, took in seconds.items():
        rates = f"{took:>9.1f}{took / num_trials:>9.2f}{3600 * num_trials / took:>9.0f}"
        print(f"{name:<25}{rates}{took / ours:>8.2f}x")


def _measure_memory(setting: Setting, shared: SharedData, at_once: int) -> None:
    with _watching() as peak:
        _under_ray(setting, shared, f"memory-{at_once}", at_once)
    held = shared.num_bytes / MB
    print(
        f"{at_once} at once: {peak.shared / MB:.0f} MB of shared pages for {held:.0f} MB of features; "
        f"the largest process has {peak.own / MB:.0f} MB of its own"
    )


@dataclass
class _Peak:
    shared: int = 0
    own: int = 0
    over: threading.Event = field(default_factory=threading.Event)


@contextmanager
def _watching() -> Iterator[_Peak]:
    """Record the peaks, over time, of pages of the object store and of the private memory of a trial's process."""
    peak = _Peak()

    def watch() -> None:
        while not peak.over.wait(1.0):
            shared, own = 0, 0
            for process in psutil.Process().children(recursive=True):
                try:
                    maps = process.memory_maps(grouped=True)
                    is_trial = "_run_trial" in " ".join(process.cmdline()) or "Implicit" in process.name()
                    own = max(own, process.memory_full_info().uss if is_trial else 0)
                except (psutil.NoSuchProcess, psutil.AccessDenied):
                    continue
                shared += sum(mapped.pss for mapped in maps if "plasma" in mapped.path)
            peak.shared, peak.own = max(peak.shared, shared), max(peak.own, own)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield peak
    finally:
        peak.over.set()
        watcher.join()


if __name__ == "__main__":
    main()
