"""Decode videos into frames, in a process that may crash without harm."""
