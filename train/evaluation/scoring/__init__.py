"""Predictions -> accuracies, and how sure the differences between encoders are."""
