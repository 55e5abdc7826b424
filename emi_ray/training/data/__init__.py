"""The data of a training: clips with packed features and targets, their split, and batches of them."""
