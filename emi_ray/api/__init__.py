"""The Python API: what each verb of the command line does, as a function.

    import emi_ray

    emi_ray.init("work", "clips.csv")
    emi_ray.extract("work")
    emi_ray.train("work", "f2", seeds=[1, 2, 3])
    emi_ray.predict("work", "f2/1", ["new/clip.mp4"]).to_pandas()

Everything here is available as ``emi_ray.<name>``. A workspace is given as a path, a URI, or a
:class:`~emi_ray.workspace.Workspace`. Functions that need Ray start a local session for the time of the call, use the
session that is running, or connect to ``address``. A mistake of the caller raises :class:`~emi_ray.errors.UserError`,
work that fails :class:`~emi_ray.errors.EmiRayError`; both say what to do.

inputs.py     what every function takes: workspaces and settings
data.py       init, extract
training.py   train, tune
results.py    evaluate, predict, load_model, compare, report
"""
