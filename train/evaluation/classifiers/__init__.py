"""What predicts labels: linear layers, finetuning, probes, kNN, baselines."""
