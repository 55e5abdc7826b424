"""``python -m emi_ray`` is ``emi-ray``."""

from emi_ray.cli import main

if __name__ == "__main__":
    main()
