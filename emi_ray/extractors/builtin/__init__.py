"""Built-in extractors. They need no download and no GPU, and their results do not depend on the machine."""
