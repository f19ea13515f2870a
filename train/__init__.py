"""Stage 2: a store in; models, embeddings and results out."""
