"""Synthetic videos whose class is their motion alone."""
