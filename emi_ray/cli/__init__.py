"""The command ``emi-ray``: one subcommand per step. Each calls the module that does the work, and prints the
result.

app.py        the application: options that commands share, exit codes
corpus.py     init
features.py   extract
extractors.py extractors
exchange.py   import-features, export-features
recipes.py    recipes
models.py     train, evaluate, predict, report
compare.py    compare
ensemble.py   ensemble
robustness.py robustness
reproduce.py  reproduce, stats
tuning.py     tune, dashboard; tuning_view.py draws them
doctor.py     doctor
status.py     status
pipeline.py   demo, run
tables.py     tables
progress.py   progress bars
"""

from emi_ray.cli import corpus, features, recipes, models, compare  # noqa: F401, I001 - in the order of --help
from emi_ray.cli import ensemble, robustness, reproduce, tuning, exchange, extractors, doctor  # noqa: F401
from emi_ray.cli import status, pipeline  # noqa: F401
from emi_ray.cli.app import main

__all__ = ["main"]
