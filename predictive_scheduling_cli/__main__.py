"""``python -m predictive_scheduling_cli``."""

from predictive_scheduling_cli import run

run()
