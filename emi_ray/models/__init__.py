"""Features → embeddings → predictions, in plain torch."""
