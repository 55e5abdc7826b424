"""Features that others made, into the store; features of the store, out to others.

pickles.py     an unpickler that admits numpy arrays and torch tensors, and nothing else
arrays.py      files of arrays: .npy, .pt, .safetensors, .pkl
sources.py     a folder of such files
tables.py      one file of many clips: .npz, HDF5, Parquet
layouts.py     which folders hold which modality
clips.py       clips.parquet of a corpus that has features and no media
importing.py   import_features
storing.py     checks clips and writes them a part at a time
exporting.py   export_features
"""

from emi_ray.exchange.exporting import Exported, export_features, export_transcripts
from emi_ray.exchange.importing import Imported, import_features
from emi_ray.exchange.layouts import EXPORTS, LAYOUTS

__all__ = [
    "EXPORTS",
    "LAYOUTS",
    "Exported",
    "Imported",
    "export_features",
    "export_transcripts",
    "import_features",
]
