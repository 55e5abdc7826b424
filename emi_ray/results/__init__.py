"""The results of runs and studies: names, columns and keys of their files, and how they are read.

Training and tuning write these files, and comparison and the report read them.
"""
