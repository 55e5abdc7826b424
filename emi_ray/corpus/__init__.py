"""Which clips there are: their splits, media and labels."""
