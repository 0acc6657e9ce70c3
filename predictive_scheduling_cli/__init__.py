"""The command line, ``predictive-scheduling``."""

import sys

_EXTRAS = """the command line comes with the extras of predictive-scheduling:
  [scheduler] and [predictor] to serve, [demo] to see it, [train] to make predictors
  for example: pip install 'predictive-scheduling[scheduler]'"""


def run() -> None:
    """Run the command line; say what to install where a command's libraries are missing."""
    try:
        from predictive_scheduling_cli.main import app  # typer comes with the extras

        app()
    except ModuleNotFoundError as error:
        sys.exit(f"predictive-scheduling: {error.name} is not installed; {_EXTRAS}")
