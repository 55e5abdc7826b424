"""The stores of a workspace: features, transcripts and failures of clips, each a folder of Parquet parts.

failures.py, feature_store.py, transcript_store.py   what is kept of each clip
feature_layout.py, feature_precision.py              the columns of features, and their precision
parts.py                                             folders of parts: reading, and removal of rows
part_index.py, part_rows.py, read_ahead.py           the index of a folder, groups of rows, reading in threads
vanishing.py                                         reading again what was merged meanwhile
part_merging.py                                      many small parts become one
"""
