"""Predict clips that a model has never seen, and draw their intensities.

python examples/plot_intensities.py work/runs/f2/42 intensities.png new/a.mp4 new/b.mp4
"""

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import typer

import emi_ray


def main(run: str, picture: str, clips: list[str]) -> None:
    predicted = emi_ray.load_model(run).predict(clips).to_pandas().set_index("clip_id")
    axes = predicted.drop(columns="modalities").T.plot.barh(figsize=(7, 4))
    axes.set_xlabel("intensity")
    axes.legend(title="clip")
    plt.tight_layout()
    plt.savefig(picture)
    print(f"Wrote {picture}.")


if __name__ == "__main__":
    typer.run(main)
