"""The commands that run a service; one flag per setting, made from the settings class itself."""

from __future__ import annotations

import asyncio
import gc
import inspect
import logging
import sys
from collections.abc import Callable, Coroutine
from typing import Any, NoReturn, TypeVar

import typer
from pydantic import SecretStr, ValidationError
from pydantic_core import PydanticUndefined

from predictive_scheduling.listening import ListenError
from predictive_scheduling.service_settings import ServiceSettings, faults
from predictor_service.settings import PredictorSettings
from scheduler_service.domain import BackendUnavailableError
from scheduler_service.settings import SchedulerSettings

S = TypeVar("S", bound=ServiceSettings)


def predictor_command() -> Callable[..., None]:
    """Return the command that runs the predictor."""

    def serve(settings: PredictorSettings) -> Coroutine[Any, Any, None]:
        from predictor_service import server

        return server.serve(settings, on_started=_keep)

    return _command(PredictorSettings, serve, "Serve predictions: how a query's accuracy grows with reasoning tokens.")


def scheduler_command() -> Callable[..., None]:
    """Return the command that runs the scheduler."""

    def serve(settings: SchedulerSettings) -> Coroutine[Any, Any, None]:
        from scheduler_service import server

        return server.serve(settings, on_started=_keep)

    return _command(SchedulerSettings, serve, "Serve generations: split the budget, run each request on an LLM server.")


def _keep(_: object) -> None:
    """Tell the collector that what was made until now stays: going through it would stop every request, for 16 ms."""
    gc.collect()
    gc.freeze()


def _command(
    settings: type[S], serve: Callable[[S], Coroutine[Any, Any, None]], description: str
) -> Callable[..., None]:
    """Return a typer command whose flags are the fields of ``settings``; a flag beats its environment variable.

    A wrong setting ends it with exit code 2 and the name of the field, a server that cannot start with 1.
    """
    prefix = str(settings.model_config.get("env_prefix", ""))

    def command(**flags: Any) -> None:
        loaded = _load(settings, {name: value for name, value in flags.items() if value is not None})
        logging.basicConfig(
            level=loaded.log_level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s %(message)s"
        )
        try:
            asyncio.run(serve(loaded))
        except ModuleNotFoundError as error:
            extra = prefix.lower().rstrip("_")
            _fail(f"{error.name} is not installed: pip install 'predictive-scheduling[{extra}]'", 1)
        except (BackendUnavailableError, ListenError, ValueError, RuntimeError) as error:
            _fail(str(error), 1)
        except ExceptionGroup as errors:  # of the tasks that were to serve; any other fault keeps its traceback
            if errors.split(ListenError)[1] is not None:
                raise
            _fail(str(errors.exceptions[0]), 1)

    parameters = [_flag(name, field, prefix) for name, field in settings.model_fields.items()]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # where typer reads the flags
    command.__doc__ = description
    return command


def _flag(name: str, field: Any, prefix: str) -> inspect.Parameter:
    plain = field.annotation in (str, int, float, bool) or inspect.isclass(field.annotation)
    kind = field.annotation if plain and field.annotation is not SecretStr else str
    flag = "--" + name.replace("_", "-")
    default = f"default {field.default}; " if field.default is not PydanticUndefined and str(field.default) else ""
    option = typer.Option(
        None,
        f"{flag}/--no-{flag[2:]}" if kind is bool else flag,
        help=f"{field.description} [dim]({default}${prefix}{name.upper()})[/dim]",
        show_default=False,
    )
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=option, annotation=kind | None)


def _load(settings: type[S], given: dict[str, Any]) -> S:
    try:
        return settings(**given)
    except ValidationError as error:
        _fail("\n".join(faults(error)), 2)
    except ValueError as error:
        _fail(str(error), 2)


def _fail(message: str, code: int) -> NoReturn:
    typer.secho(message, err=True, fg="red")
    raise typer.Exit(code) from None
