"""Search spaces and studies: Optuna proposes, Ray Tune runs, the workspace remembers.

search_space.py   what may vary: YAML → suggestions → settings of a recipe
settings.py       what a study is about; it may be continued only under the same
storage.py        where a study lives, and the lock that keeps it to one driver
samplers.py       by name: who proposes, and who stops early
study.py          ask, report, tell: the study's whole life, without Ray
objective.py      what one trial computes, in plain torch
tuning_data.py    the clips that a search may see
resources.py      how many trials fit on a machine
ray_search.py     Ray Tune around all of it
tune_adapters.py  what Tune is given, to ask and tell the study
tune.py           the whole of `emi-ray tune`
outcome.py        the best recipe, trained over seeds on the official split
record.py         trials as plain data, for the report
mlflow_log.py     trials as MLflow runs
dashboard.py      optuna-dashboard and TensorBoard
"""
