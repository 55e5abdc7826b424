"""A workspace as one page: what was scored, on which clips, from which features, and how."""

from emi_ray.reporting.build import build_report

__all__ = ["build_report"]
