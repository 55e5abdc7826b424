"""The command ``emi-ray``: one verb a step, each a thin call of the module that does the work.

app.py        the application: options that verbs share, exit codes
corpus.py     init, demo, run
features.py   extract
extractors.py extractors
exchange.py   import-features, export-features
models.py     train, evaluate, predict, report
doctor.py     doctor
show.py       tables and progress bars
"""

from emi_ray.cli import corpus, exchange, extractors, features, models  # noqa: F401 - each adds its verbs to the application
from emi_ray.cli.app import main

__all__ = ["main"]
