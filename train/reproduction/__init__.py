"""Run the experiments of the paper's tables and compare the results."""
