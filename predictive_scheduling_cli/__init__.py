"""The command line, ``predictive-scheduling``."""

import sys


def run() -> None:
    """Run the command line; say what to install where its libraries are missing."""
    try:
        from predictive_scheduling_cli.main import app  # noqa: PLC0415  (typer comes with the extras, not with the client)
    except ModuleNotFoundError as error:
        sys.exit(
            f"predictive-scheduling: {error.name} is not installed; the command line comes with the extras, for example\n"
            "  pip install 'predictive-scheduling[scheduler]'"
        )
    app()
