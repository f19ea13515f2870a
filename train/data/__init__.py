"""Choose windows of flow, read them and turn them into batches."""
