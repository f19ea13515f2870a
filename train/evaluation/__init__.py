"""Evaluate an encoder on action recognition."""
