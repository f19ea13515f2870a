"""The pretraining loop and what surrounds it: ranks, validation, loggers."""
