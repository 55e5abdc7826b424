"""Tables for the terminal."""

from collections.abc import Mapping, Sequence
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from emi_ray.cli.terminal import console, errors, warn
from emi_ray.corpus.listing import Finding
from emi_ray.metrics import label_score
from emi_ray.schema import Label
from emi_ray.wording import plural
from emi_ray.workspace import Workspace

if TYPE_CHECKING:  # these import Ray, or much else
    from emi_ray.extraction.pools import Measurement, Pool
    from emi_ray.extraction.summary import ExtractionSummary
    from emi_ray.recipe.schema import Recipe

STYLES = {"error": "red", "warning": "yellow", "info": "default"}


def show_findings(findings: Sequence[Finding]) -> None:
    """Print the findings about a corpus, the most severe last. ``--quiet`` leaves out those that are information."""
    # The last line is next to the prompt and is seen first.
    for finding in sorted(findings, key=lambda f: list(STYLES).index(f.severity), reverse=True):
        stream = errors if console.quiet and finding.severity != "info" else console
        prefix = "" if finding.severity == "info" else f"{finding.severity.capitalize()}: "
        stream.print(f"{prefix}{finding}", style=STYLES[finding.severity])


def show_plan(pools: "Mapping[str, Pool]", measured: "Measurement") -> None:
    """Print the planned actors of each extraction stage, and which stage is the bottleneck."""
    from emi_ray.extraction.pools import processes_of  # imports Ray

    columns = ("stage", "s/clip", "actors", "threads", "GPUs each", "batch size", "clips/s")
    shown = table("Extraction plan", *columns)
    seconds, rates = measured.seconds_per_clip, {}
    for sharing in processes_of(pools):
        # Stages that share processes share their time.
        known = [name for name in sharing if name in seconds]
        total = sum(seconds[name] for name in known)
        rate = pools[sharing[-1]].max_actors / total if total else None
        if rate:
            rates[max(known, key=seconds.__getitem__)] = rate
        for name in sharing:
            pool, is_last = pools[name], name == sharing[-1]
            numbers = (_actors(pools, name), pool.threads, f"{pool.num_gpus:.2f}", pool.batch_size)
            shown.add_row(
                name,
                _dash(seconds.get(name), ".4f"),
                *map(str, numbers),
                _dash(rate if is_last else None, ".1f"),
            )
    console.print(shown)
    slowest = min(rates, key=rates.__getitem__)
    console.print(f"The bottleneck is the {slowest} stage. Any of these numbers can be set, for example:")
    console.print(f"  extraction.stages.{slowest}.max_actors=4 extraction.stages.{slowest}.batch_size=16")
    if any(pool.joins_next for pool in pools.values()):
        console.print("A stage with numbers of its own no longer shares the processes of others.")


def _actors(pools: "Mapping[str, Pool]", stage: str) -> str:
    """Return the number of a stage's actors, or the last of the stages that it shares them with."""
    if not pools[stage].joins_next:
        return str(pools[stage].max_actors)
    later = list(pools)[list(pools).index(stage) :]
    return f"those of {next(name for name in later if not pools[name].joins_next)}"


def show_extraction(summary: "ExtractionSummary", workspace: Workspace) -> None:
    """Print the summary of an extraction: one row per stage, then reasons for missing features, and notes."""
    if not summary.clips:
        console.print(
            f"Nothing to do: {plural(summary.already_done, 'clip', 'are')} already extracted or quarantined."
        )
        return
    columns = ("stage", "ok", "missing", "failed", "actors", "busy", "real-time factor", "% of model alone")
    shown = table("Extraction", *columns)
    for name, stage in summary.stages.items():
        share = summary.share_of_bare_speed(name)
        shown.add_row(
            name,
            *map(str, (stage.ok, stage.missing, stage.failed)),
            _actors(summary.pools, name),
            f"{summary.busy(name):.0%}",
            _dash(summary.real_time_factor(name), ".4f"),
            _dash(share, ".0%"),
        )
    console.print(shown)
    console.print(
        f"{plural(summary.clips, 'clip')} in {summary.seconds:.1f} s ({summary.clips_per_s:.1f} clips/s); "
        f"{plural(summary.already_done, 'clip', 'were')} already done. Bottleneck: {summary.bottleneck}."
    )
    for modality, reasons in summary.redone.items():
        _count_reasons(f"{modality}: features of {{}} extracted again", reasons)
    for modality, reasons in summary.lifted.items():
        _count_reasons(f"{modality}: {{}} taken out of quarantine and tried again", reasons)
    for what in summary.notes:
        console.print(f"  {what}.")
    if summary.nodes_lost:
        nodes = ", ".join(dict.fromkeys(summary.nodes_lost))
        console.print(f"  Nodes lost: {nodes}; their unfinished clips were processed again.")
    for name, stage in summary.stages.items():
        for reason, count in [*stage.reasons.most_common(8), *stage.remarks.most_common(8)]:
            # Reasons that differ only in numbers are counted together under the first of them.
            like = "such as: " if count > 1 and any(map(str.isdigit, reason)) else ""
            console.print(f"  {name}: {count} x {like}{reason}")
    if console.quiet and (failed := sum(stage.failed for stage in summary.stages.values())):
        warn(f"{failed} extractions failed. To list the clips: {_listing(workspace)}")
    if any(stage.failed for stage in summary.stages.values()):
        console.print(
            f"To list the failed clips with their reasons: {_listing(workspace)}\n"
            f"To try them again: emi-ray extract -w {workspace.quoted} --retry-failed",
        )


def _listing(workspace: Workspace) -> str:
    """Return the command that lists the clips without features."""
    return f"emi-ray export-features -w {workspace.quoted} --layout failures --to FOLDER"


def _count_reasons(what: str, reasons: Mapping[str, int]) -> None:
    """Print one line with the number of clips and the reasons."""
    total = sum(reasons.values())
    why = ", ".join(
        f"{reason} ({count})" if len(reasons) > 1 else reason for reason, count in reasons.items()
    )
    clips = f"{total} clip{'s' if total > 1 else ''}"
    console.print(f"  {what.format(clips)}: {why}.")


def _dash(value: float | None, form: str) -> str:
    """Format a number, or a dash for None."""
    return "–" if value is None else format(value, form)


def show_scores(metrics: Mapping[str, Any], labels: Sequence[Label]) -> None:
    """Print validation scores: one row per label, one column per unimodal encoder, the whole model last.

    The last row has the number of clips, because an encoder is scored on the clips that have its modality.
    """
    stages = metrics.get("stages", {})
    models = dict(stages)
    models[metrics["recipe"]] = metrics
    shown = table(f"Validation Pearson r of {metrics['recipe']}, seed {metrics['seed']}", "label", *models)
    keys = {"mean": "val_pearson", **{label.name: label_score(label.name) for label in labels}}
    for name, key in keys.items():
        shown.add_row(name, *(decimal(scores.get(key)) for scores in models.values()))
    shown.add_row("clips", *(str(scores.get("num_val", "–")) for scores in models.values()))
    console.print(shown)


def show_comparison(runs: "Sequence[tuple[Recipe, Mapping[str, Any]]]") -> None:
    """Print one row per recipe: mean and sample standard deviation of validation Pearson r over its seeds."""
    shown = table("Validation Pearson r", "recipe", "mean", "± sd", "seeds")
    scores: dict[str, list[float]] = {}
    for recipe, metrics in runs:
        value = metrics["val_pearson"]
        scores.setdefault(recipe.name, []).append(float("nan") if value is None else value)
    for name, values in scores.items():
        spread = decimal(stdev(values)) if len(values) > 1 else "–"
        shown.add_row(name, decimal(fmean(values)), spread, str(len(values)))
    console.print(shown)
    console.print(
        "Each recipe is scored on the clips that it can read; sd is the sample standard deviation over seeds. To "
        "compare recipes on the same clips, use emi-ray compare."
    )


def table(title: str, first: str, *others: str) -> Table:
    """Create a table with a left-aligned first column and right-aligned number columns."""
    made = compact_table(title)
    made.add_column(first)
    for heading in others:
        made.add_column(heading, justify="right", overflow="fold")
    return made


def compact_table(title: str | None = None) -> Table:
    """Create an empty table without vertical lines, so that ten columns of numbers fit into 80 characters."""
    return Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))


def decimal(value: float | None) -> str:
    return "–" if value is None or value != value else f"{value:.3f}"
