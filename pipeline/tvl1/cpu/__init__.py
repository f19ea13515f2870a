"""The TV-L1 solver on the processor, compiled by Numba."""
