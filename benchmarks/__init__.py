"""Benchmarks: each measures ours beside a baseline in the same run, and reports ratios. ``make bench`` runs them."""
