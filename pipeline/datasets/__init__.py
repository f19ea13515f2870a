"""Data sets by name: UCF-101, HMDB-51, Kinetics, class folders and CSV lists."""
