"""The feature store: the contract between extraction and training."""
