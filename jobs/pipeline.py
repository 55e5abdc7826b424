"""Entry point for `ray job submit`: arguments are those of `emi-ray run`, the whole way from clips to report."""

import sys

from emi_ray.cli import main

if __name__ == "__main__":
    main(["run", *sys.argv[1:]])
