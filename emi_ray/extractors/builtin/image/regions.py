"""Regions of an upright face in a window from brow to chin, and their statistics."""

import cv2
import numpy as np

REGIONS = {
    "brows": (0.04, 0.20, 0.12, 0.88),
    "left_eye": (0.18, 0.42, 0.12, 0.47),
    "right_eye": (0.18, 0.42, 0.53, 0.88),
    "nose": (0.40, 0.64, 0.20, 0.80),
    "mouth": (0.62, 0.92, 0.24, 0.76),
}
"""Top, bottom, left and right as shares of the window. Left and right are those of the viewer."""

EYES = (0.04, 0.44, 0.10, 0.90)
"""Both eyes and brows."""

REGION_NAMES = (
    "mean",
    "std",
    "dark",
    "bright",
    "edges_across",
    "edges_along",
    "darkness_height",
    "asymmetry",
)
COLOUR_NAMES = (
    *("red", "green", "blue", "red_std", "green_std", "blue_std"),
    *(f"redness_{region}" for region in REGIONS),
)
QUALITY_NAMES = ("sharpness", "brightness", "contrast", "underexposed", "overexposed", "symmetry", "detected")

FACE_SHARE = 0.68
"""Side of the window from brow to chin, as a share of the side of a crop with a margin of 0.25."""


def face_windows(crops: np.ndarray, share: float) -> np.ndarray:
    """Cut the window from brow to chin out of crops (T, S, S, …): ``share`` as wide, a little below the centre."""
    # With a factor of 0.5 the window would be centred; the face is a little lower in its box.
    top, left = 0.69 * (1 - share), (1 - share) / 2
    return cut(crops, (top, top + share, left, left + share))


def shrink(pictures: np.ndarray, width: int, height: int) -> np.ndarray:
    """Resize images (T, H, W, …) so that each new pixel is the mean of the area that it covers."""
    return np.stack(
        [cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA) for picture in pictures]
    )


def to_grey(pictures: np.ndarray) -> np.ndarray:
    """Convert images (T, H, W, 3) uint8 RGB to luma (T, H, W) uint8."""
    return np.stack([cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in pictures])


def cut(pictures: np.ndarray, box: tuple[float, float, float, float]) -> np.ndarray:
    """Return the part of images (T, H, W, …) within ``box`` (top, bottom, left, right; as shares)."""
    height, width = pictures.shape[1:3]
    top, bottom = round(box[0] * height), round(box[1] * height)
    left, right = round(box[2] * width), round(box[3] * width)
    return pictures[:, top:bottom, left:right]


def standardise(grey: np.ndarray) -> np.ndarray:
    """Standardise images (T, H, W) to mean 0 and standard deviation 1 each; a constant image becomes 0. float32."""
    grey = grey.astype(np.float32)
    centred = grey - grey.mean(axis=(1, 2), keepdims=True)
    return centred / np.maximum(np.sqrt((centred**2).mean(axis=(1, 2), keepdims=True)), 1)


def region_statistics(standard: np.ndarray) -> np.ndarray:
    """Compute ``REGION_NAMES`` for each of ``REGIONS`` of standardised faces (T, H, W): (T, 40).

    ``dark`` and ``bright`` are the 10th and 90th percentiles (an open mouth, teeth), edges are mean absolute
    differences between neighbours, ``darkness_height`` is the mean position of dark pixels, from −1 (top) to 1, and
    ``asymmetry`` is the mean difference between the left and the right half.
    """
    return np.concatenate([_statistics(cut(standard, box)) for box in REGIONS.values()], axis=1)


def _statistics(part: np.ndarray) -> np.ndarray:
    flat = part.reshape(len(part), -1)
    dark, bright = np.percentile(flat, (10, 90), axis=1)
    mean = flat.mean(axis=1)
    darkness = np.maximum(mean[:, None, None] - part, 0).mean(axis=2)
    heights = np.linspace(-1, 1, part.shape[1])
    half = part.shape[2] // 2
    columns = [
        mean,
        flat.std(axis=1) * 1.5,
        dark,
        bright,
        np.abs(np.diff(part, axis=1)).mean(axis=(1, 2)) * 5,
        np.abs(np.diff(part, axis=2)).mean(axis=(1, 2)) * 5,
        (darkness * heights).sum(axis=1) / np.maximum(darkness.sum(axis=1), 1e-3) * 3,
        # The middle column of an odd width is in neither half.
        part[:, :, :half].mean(axis=(1, 2)) - part[:, :, -half:].mean(axis=(1, 2)),
    ]
    return np.stack(columns, axis=1)


def colour_statistics(colour: np.ndarray) -> np.ndarray:
    """Compute ``COLOUR_NAMES`` of faces (T, H, W, 3) uint8 RGB: (T, 11).

    Redness is 20 times the difference between the share of red in a region and that in the whole face.
    """
    means, spread = _means(colour)
    usual = _share_of_red(means)
    redness = [20 * (_share_of_red(_means(cut(colour, box))[0]) - usual) for box in REGIONS.values()]
    return np.stack([*(means.T / 64 - 2), *(spread.T / 32 - 1), *redness], axis=1)


def quality(grey: np.ndarray, standard: np.ndarray, detected: np.ndarray) -> np.ndarray:
    """Compute ``QUALITY_NAMES`` of faces (T, H, W) uint8 and their standardised form: (T, 7).

    ``sharpness`` is log10 of the variance of the Laplacian, minus 2; ``symmetry`` is the correlation of the face
    with its mirror image, which decreases as the head turns.
    """
    edges = np.stack([cv2.Laplacian(picture, cv2.CV_16S) for picture in grey])
    brightness, contrast = _means(grey)
    columns = [
        np.log10(_means(edges)[1][:, 0] ** 2 + 1) - 2,
        brightness[:, 0] / 64 - 2,
        contrast[:, 0] / 32 - 1,
        (grey < 16).mean(axis=(1, 2)) * 4,
        (grey > 239).mean(axis=(1, 2)) * 4,
        (standard * standard[:, :, ::-1]).mean(axis=(1, 2)),
        detected.astype(np.float32),
    ]
    return np.stack(columns, axis=1)


def _means(pictures: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of each channel of each image, (T, C) float64."""
    pairs = [cv2.meanStdDev(picture) for picture in pictures]
    means, deviations = (np.array(values)[:, :, 0] for values in zip(*pairs, strict=True))
    return means, deviations


def _share_of_red(means: np.ndarray) -> np.ndarray:
    """Return the share of red in mean colours (T, 3)."""
    share: np.ndarray = means[:, 0] / np.maximum(means.sum(axis=1), 1)
    return share
