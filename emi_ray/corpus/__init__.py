"""The clips of a corpus: their splits, media and labels."""
