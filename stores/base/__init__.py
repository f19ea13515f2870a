"""What every package may import: atomic files, kernels, errors, progress, signals."""
