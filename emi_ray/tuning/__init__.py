"""Hyper-parameter search: Optuna proposes trials, Ray Tune runs them, and the workspace stores the study.

search_space.py   search spaces: from YAML to suggestions to settings of a recipe
settings.py       settings of a study; it can only be continued with the same ones
storage.py        storage of a study, and the lock that allows only one driver
samplers.py       samplers and early-stopping schedulers by name
study.py          the life of a study: ask, report, tell; without Ray
objective.py      the score of one trial, in plain torch
tuning_data.py    the clips that a search may use
resources.py      how many trials fit on a machine
ray_search.py     runs the trials of a study with Ray Tune
tune_adapters.py  searcher, scheduler and callback that connect Ray Tune with the study
tune.py           the implementation of `emi-ray tune`
confirmation.py   selection of the best recipe: the best trials are retrained with other seeds
final_evaluation.py   its scores on the official split, compared with the original settings
trials_json.py    trials as plain data, for the report
dashboard.py      optuna-dashboard and TensorBoard
"""
