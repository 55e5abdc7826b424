"""Models in plain torch: encoders from features to embeddings, and heads and fusions that predict from them."""
