"""Entry point for `ray job submit`: arguments are those of `emi-ray train`."""

import sys

from emi_ray.cli import main

if __name__ == "__main__":
    main(["train", *sys.argv[1:]])
