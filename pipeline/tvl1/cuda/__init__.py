"""The TV-L1 solver on an NVIDIA GPU, compiled by Numba."""
