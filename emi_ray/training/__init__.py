"""Training of models on features and labels. Ray is only used in ``side_by_side``, ``ray_worker``, ``inbox`` and
``resources``."""
