"""Stage 2: a store in; models, embeddings and results out. Never imports OpenCV or Dask."""
