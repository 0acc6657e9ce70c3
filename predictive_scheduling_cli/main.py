"""All commands of ``predictive-scheduling``, in the panels of its ``--help``."""

from __future__ import annotations

import typer

from exporters.cli import data, learn, models, scores
from predictive_scheduling.version import VERSION
from predictive_scheduling_cli import calls
from predictive_scheduling_cli.demo import command as demo
from predictive_scheduling_cli.serve import predictor_command, scheduler_command
from predictive_scheduling_cli.top import top

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command("demo", rich_help_panel="See it")(demo.demo)
app.command("generate", rich_help_panel="Call it")(calls.generate)
app.command("allocate", rich_help_panel="Call it")(calls.allocate)
app.command("top", rich_help_panel="Watch it")(top)
app.command("explain", rich_help_panel="Watch it")(calls.explain)
for command in (
    data.collect,
    data.features,
    data.merge,
    models.train,
    models.export,
    models.parity,
    models.familiarise,
    scores.evaluate,
    scores.report,
    scores.simulate,
    learn.learn,
):
    app.command(command.__name__, rich_help_panel="Make predictors")(command)
_REST = {"allow_extra_args": True, "ignore_unknown_options": True, "allow_interspersed_args": False}
app.command("on-ray", rich_help_panel="Make predictors", context_settings=_REST)(data.on_ray)
app.command("predictor", rich_help_panel="Run it")(predictor_command())
app.command("scheduler", rich_help_panel="Run it")(scheduler_command())


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(VERSION)
        raise typer.Exit


@app.callback()
def main(
    version: bool = typer.Option(False, "--version", callback=_show_version, is_eager=True, help="Show the version."),
) -> None:
    """Split one reasoning-token budget across LLM queries where it buys the most accuracy.

    New here? Run [bold]predictive-scheduling demo[/bold]: it starts everything on this machine and shows the gain.
    """
