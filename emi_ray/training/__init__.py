"""Training of models on features and labels. Ray is only used in ``parallel_runs``, ``processes``,
``shared_features``, ``ray_train``, ``inbox`` and ``resources``."""
