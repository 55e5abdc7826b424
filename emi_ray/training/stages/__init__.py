"""The training stages of a recipe: first each encoder with a head of its own, then the fusion of all encoders."""
