"""From a table of your own clips to a score for each label.

    python examples/own_clips.py clips.csv work

The table has the columns ``clip_id`` and ``split``, any of ``video``, ``audio`` and ``transcript``, and labels.
"""

import typer

import emi_ray


def main(table: str, workspace: str, recipe: str = "text") -> None:
    corpus = emi_ray.init(workspace, table)
    print(f"{corpus.clips.num_rows} clips; labels: {', '.join(label.name for label in corpus.labels)}")
    for finding in corpus.findings:
        print(f"{finding.severity}: {finding}")

    emi_ray.extract(workspace, ["text"])  # leave the list out to extract every modality
    (run,) = emi_ray.train(workspace, recipe, seeds=[1], settings={"training.epochs": 10})
    for label in corpus.labels:
        print(
            f"{label.name:>15}: r = {run.metrics['val_pearson_' + label.name.lower().replace(' ', '_')]:.2f}"
        )


if __name__ == "__main__":
    typer.run(main)
