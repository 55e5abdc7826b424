"""The Python API: one function for each command of the command line.

    import emi_ray

    emi_ray.init("work", "clips.csv")
    emi_ray.extract("work")
    emi_ray.train("work", "f2", seeds=[1, 2, 3])
    emi_ray.predict("work", "f2/1", ["new/clip.mp4"]).to_pandas()

Everything here is available as ``emi_ray.<name>``. A workspace is given as a path, a URI, or a
:class:`~emi_ray.workspace.Workspace`. Functions that need Ray start a local session for the duration of the call,
use the running session, or connect to ``address``. A mistake of the caller raises
:class:`~emi_ray.errors.UserError`, and work that fails raises :class:`~emi_ray.errors.EmiRayError`; both messages
state the remedy.

inputs.py     arguments of all functions: workspaces and settings
data.py       init, extract
training.py   train, tune
results.py    evaluate, predict, load_model, compare, report
"""
