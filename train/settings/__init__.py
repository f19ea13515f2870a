"""The settings of a pretraining: their parser, the presets and the paper's numbers."""
