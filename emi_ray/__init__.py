"""From raw talking-face clips to six emotional-mimicry intensities, on one laptop or a Ray cluster."""

__version__ = "0.1.0"
