"""Training of models on features and labels. Ray is only used in ``parallel_runs``, ``ray_train``, ``inbox`` and
``resources``."""
