"""Features and labels → trained regressors. Only ``ray_worker`` knows Ray."""
