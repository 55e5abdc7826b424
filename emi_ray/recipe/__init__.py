"""Recipes: the complete definition of a system to train, in one YAML file each (``emi_ray/recipes/``).

schema.py        the recipe as an immutable, validated model
sections.py      its sections: training, encoders, fusion, objective
custom_types.py  values that name types of encoders and a user's own code
checks.py        settings that have no effect because of others
loading.py       recipes from files, with overrides
"""
