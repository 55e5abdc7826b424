"""Train a model of your own in plain torch on extracted features.

    python examples/features_in_torch.py work audio

The features of each clip are averaged over time; a linear model predicts the labels from the average.
"""

import numpy as np
import torch
import typer

import emi_ray


def averages(features: emi_ray.FeatureSet, split: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Inputs (num_clips, feature_dim) and labels (num_clips, num_labels) of one split."""
    clips = features.to_torch(split)
    items = [clips[index] for index in range(len(clips))]
    return torch.stack([item["features"].mean(0) for item in items]), torch.stack(
        [i["labels"] for i in items]
    )


def main(workspace: str, modality: str, epochs: int = 200) -> float:
    features = emi_ray.read_features(workspace, modality)
    inputs, labels = averages(features, "train")
    mean, deviation = inputs.mean(0), inputs.std(0) + 1e-6

    model = torch.nn.Linear(inputs.shape[1], labels.shape[1])
    optimiser = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(epochs):
        optimiser.zero_grad()
        loss = torch.nn.functional.mse_loss(model((inputs - mean) / deviation), labels)
        loss.backward()
        optimiser.step()

    inputs, labels = averages(features, "val")
    with torch.no_grad():
        predicted = model((inputs - mean) / deviation)
    r = np.mean([np.corrcoef(predicted[:, k], labels[:, k])[0, 1] for k in range(labels.shape[1])])
    print(f"{features.description['extractor']}: mean r on {len(labels)} validation clips {r:.3f}")
    return float(r)


if __name__ == "__main__":
    typer.run(main)
