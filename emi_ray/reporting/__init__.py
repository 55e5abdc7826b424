"""The HTML report of a workspace: scores, comparisons, studies, corpus, features, and how everything was made."""

from emi_ray.reporting.build import build_report

__all__ = ["build_report"]
