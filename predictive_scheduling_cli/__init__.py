"""The command line, ``predictive-scheduling``."""

import sys


def run() -> None:
    """Run the command line; say what to install where its libraries are missing."""
    try:
        from predictive_scheduling_cli.main import app
    except ModuleNotFoundError as error:
        sys.exit(
            f"predictive-scheduling: {error.name} is not installed; the command line comes with the extras:\n"
            "  pip install 'predictive-scheduling[scheduler]'"
        )
    app()
