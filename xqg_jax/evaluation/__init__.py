"""Evaluation of runs: measures, tests, comparisons, examples."""
