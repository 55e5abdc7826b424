"""The section that compares systems on the same clips."""

from collections.abc import Sequence
from dataclasses import dataclass

from emi_ray.comparison import Comparison, System, compare
from emi_ray.reporting.collect import Material
from emi_ray.reporting.formatting import format_score, p_value, signed
from emi_ray.reporting.ranking import SameClips
from emi_ray.reporting.text_tables import TextTable
from emi_ray.resampling import Difference

MOST_SYSTEMS = 8


@dataclass(frozen=True)
class ComparisonSection:
    """Content of the section; ``verdicts`` has one sentence per pair of systems."""

    tables: Sequence[TextTable]
    verdicts: Sequence[str]
    note: str


def build_comparison(material: Material, same: SameClips | None) -> ComparisonSection | None:
    """Compare the recipes of the runs on the same clips, the best first; None if there are fewer than two."""
    if same is None:
        return None
    seeds: dict[str, dict[str, int]] = {}
    for place, run in enumerate(same.runs):
        seeds.setdefault(run.recipe, {})[run.seed] = place
    systems = [
        System(recipe, {seed: same.answers[place] for seed, place in sorted(own.items())})
        for recipe, own in list(seeds.items())[:MOST_SYSTEMS]
    ]
    if len(systems) < 2:
        return None
    found = compare(material.workspace, systems)
    left_out = len(seeds) - len(systems)
    more = f" Only the best {MOST_SYSTEMS} recipes are compared; {left_out} are left out." if left_out else ""
    return ComparisonSection(
        tables=[_scores(found), _differences(found)],
        verdicts=[pair.verdict for pair in found.pairs],
        note=" ".join(found.notes) + more,
    )


def _scores(found: Comparison) -> TextTable:
    rows = [
        [
            system.name,
            str(len(system.seeds)),
            *(format_score(each) for each in row),
            format_score(deviation, 4),
        ]
        for system, row, deviation in zip(found.systems, found.scores, found.deviations, strict=True)
    ]
    headings = ["recipe", "seeds", *found.labels, "mean", "± sd over seeds"]
    return TextTable("Pearson r on the same clips, mean over seeds", headings, rows, "")


def _differences(found: Comparison) -> TextTable:
    rows = [
        [
            f"{pair.first} − {pair.second}",
            *(
                f"{_cell(each)} (p {p_value(corrected)})"
                for each, corrected in zip(pair.labels, pair.label_p_values, strict=True)
            ),
            f"{_cell(pair.mean)} (p {p_value(pair.p_value)})",
        ]
        for pair in found.pairs
    ]
    return TextTable("Differences, with 95 % intervals", ["recipes", *found.labels, "mean"], rows, "")


def _cell(found: Difference) -> str:
    return f"{signed(found.value, 3)} [{signed(found.low, 3)}, {signed(found.high, 3)}]"
