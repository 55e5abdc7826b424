"""Import features that were computed elsewhere into the store, and export features of the store.

pickles.py     an unpickler that admits only numpy arrays and torch tensors
arrays.py      files with one array: .npy, .pt, .safetensors, .pkl
sources.py     a folder of such files
tables.py      one file with many clips: .npz, HDF5, Parquet
layouts.py     the folders of each modality
clips.py       clips.parquet of a corpus with features but without media
importing.py   import_features
storing.py     check clips and write them in parts
exporting.py   export_features
"""

from emi_ray.exchange.exporting import Exported, export_failures, export_features, export_transcripts
from emi_ray.exchange.importing import Imported, import_features
from emi_ray.exchange.layouts import EXPORTS, LAYOUTS

__all__ = [
    "EXPORTS",
    "LAYOUTS",
    "Exported",
    "Imported",
    "export_failures",
    "export_features",
    "export_transcripts",
    "import_features",
]
