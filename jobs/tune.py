"""Entry point for `ray job submit`: arguments are those of `emi-ray tune`."""

import sys

from emi_ray.cli import main

if __name__ == "__main__":
    main(["tune", *sys.argv[1:]])
