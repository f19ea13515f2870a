"""What a run leaves: checkpoints, metrics, embeddings, exports and its model card."""
