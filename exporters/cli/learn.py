"""``predictive-scheduling learn``: make and keep predictors from real traffic, without labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from exporters.cli.data import budget_points
from exporters.cli.options import TemplateOption, failed
from exporters.faults import CurvesFileError

if TYPE_CHECKING:
    from exporters.learning.loop import Learner, Pass

LEAST_PRIORITY = 2**31 - 1  # lower ones go first
KEY_VARIABLE = "PREDICTIVE_SCHEDULING_LEARN_KEY"


def learn(
    store: Annotated[str, typer.Option(help="The predictor's models folder, to publish into; or s3://bucket/folder.")],
    state: Annotated[Path, typer.Option(help="Folder for what the loop remembers; of this loop alone.")],
    scheduler: Annotated[
        str, typer.Option(envvar="SCHEDULER_ADDRESS", help="A running scheduler to take prompts from.")
    ] = "",
    token: Annotated[str, typer.Option(envvar="SCHEDULER_TOKEN", help="Bearer token for it.")] = "",
    tls_ca: Annotated[Path | None, typer.Option(help="TLS to it: who signed its certificate, a PEM file.")] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Our certificate, where it asks for one.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Our certificate's key.")] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="Instead of a scheduler: JSON lines with prompt, and tenant where known.")
    ] = None,
    backend: Annotated[str, typer.Option(help="As collect's: tgi, vllm, sglang, openai, llama_cpp, embedded.")] = "tgi",
    backend_url: Annotated[str, typer.Option(help="The LLM server's address; not for the embedded one.")] = "",
    backend_model: Annotated[str, typer.Option(help="Model to ask it for; empty takes its first.")] = "",
    backend_priority: Annotated[
        int, typer.Option(min=0, help="What vllm is told, where it serves by priority; others' 0 goes first.")
    ] = LEAST_PRIORITY,
    reports_listen: Annotated[
        str, typer.Option(help="Where vllm with our connector sends hidden states: unix:/path or tcp://ip:port.")
    ] = "",
    reports_address: Annotated[str, typer.Option(help="The address that it is told, where it is another.")] = "",
    layer: Annotated[int, typer.Option(min=0, help="Layer of these states, one that the engine keeps.")] = 0,
    template: TemplateOption = "deepseek-r1",
    check: Annotated[
        str, typer.Option(help="How traces' answers are compared: exact, maths, module:function.")
    ] = "maths",
    samples: Annotated[int, typer.Option(min=2, max=16, help="Traces a question.")] = 3,
    budgets: Annotated[str, typer.Option(help="Budget points in reasoning tokens; empty for windows.")] = "",
    windows: Annotated[int, typer.Option(min=1, help="Without budgets: how many points, 16 tokens apart.")] = 16,
    answer_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of a forced answer.")] = 16,
    temperature: Annotated[float, typer.Option(min=0.1, help="Sampling temperature: traces must differ.")] = 0.6,
    budget: Annotated[
        int, typer.Option(min=0, help="Mean reasoning tokens that models are judged at; 0 asks the scheduler.")
    ] = 0,
    idle_share: Annotated[
        float, typer.Option(min=0.01, max=1, help="Share of the LLM server's idle time to spend on measuring.")
    ] = 0.25,
    measure_seconds: Annotated[
        float, typer.Option(min=1, help="Most seconds that a pass measures; what is left is measured by the next.")
    ] = 3600.0,
    slots: Annotated[int, typer.Option(min=0, help="Generations that it runs at once; 0 asks it.")] = 0,
    least_questions: Annotated[int, typer.Option(min=8, help="Questions to train a model on, at least.")] = 60,
    look: Annotated[int, typer.Option(min=8, help="New questions that a step of a model needs, at least.")] = 40,
    tenant_share: Annotated[
        float, typer.Option(min=0.01, max=1, help="Most of one tenant among the questions that teach and judge.")
    ] = 0.2,
    key_file: Annotated[
        Path | None,
        typer.Option(help=f"Key that prompts are kept with (or {KEY_VARIABLE}); without one they are not kept."),
    ] = None,
    metrics_listen: Annotated[
        str, typer.Option(help="host:port where Prometheus scrapes /metrics; OTEL_EXPORTER_OTLP_ENDPOINT sends them.")
    ] = "",
    pages_token: Annotated[
        str, typer.Option(envvar="LEARN_PAGES_TOKEN", help="Token that this page asks for; empty asks for none.")
    ] = "",
    once: Annotated[bool, typer.Option("--once", help="Make one pass and end.")] = False,
    every: Annotated[float, typer.Option(min=1, help="Seconds from the end of a pass to the next.")] = 600.0,
) -> None:
    """Make and keep predictors from real traffic, without labels; safe to kill and to start again at any time."""
    import asyncio
    import logging
    import os
    from contextlib import AsyncExitStack

    from exporters.learning.idle import IdleAccount
    from exporters.learning.ledger import Ledger
    from exporters.learning.loop import Learner, Rules
    from exporters.learning.measuring import Counting, Measuring, Unused
    from exporters.learning.metrics import watch
    from exporters.learning.pool import Pool
    from exporters.learning.samples import FileSource
    from exporters.learning.states import States
    from exporters.learning.store import store_of
    from exporters.learning.traffic import RunningScheduler
    from exporters.measure.checkers import checker
    from exporters.measure.collect import Plan
    from exporters.measure.judging import judge_of
    from predictive_scheduling import AsyncSchedulerClient, channel_credentials
    from predictive_scheduling.metrics_page import MetricsPage
    from predictive_scheduling.page_access import PageAccess
    from predictive_scheduling.telemetry import from_environment
    from predictive_scheduling.version import VERSION
    from scheduler_service.assembly import make_reports
    from scheduler_service.domain import BackendUnavailableError, Sampling
    from scheduler_service.generation.backends import make_backend
    from scheduler_service.generation.templates import TEMPLATES
    from scheduler_service.settings import SchedulerSettings

    logging.basicConfig(format="%(message)s")
    for ours in ("exporters", "predictive_scheduling"):
        logging.getLogger(ours).setLevel(logging.INFO)

    async def run() -> None:
        server = Counting(make_backend(settings.backend_configuration), backend_priority)
        await server.start()
        async with AsyncExitStack() as closing:
            closing.push_async_callback(server.close)
            reports = await make_reports(settings, closing)
            states = None if reports is None else States(reports, layer)
            secured = channel_credentials(tls_ca, tls_cert or "", tls_key or "") if tls_ca is not None else None
            calls = (
                AsyncSchedulerClient(scheduler, timeout=10.0, token=token, credentials=secured) if scheduler else None
            )
            client = None if calls is None else await closing.enter_async_context(calls)
            limits = await server.limits()  # which also asks the server what its model is called
            room = slots or limits.max_concurrent_requests or 8
            running = RunningScheduler(client, room) if client is not None else None
            mean = budget or (await running.mean_budget() if running is not None else 0)
            ledger = Ledger(state / "ledger.jsonl")
            judge, account = judge_of(f"agreement:{check}", checker), IdleAccount(idle_share if running else 1.0)
            measuring = Measuring(
                server, plan, judge, running or Unused(room), account, states, most_seconds=measure_seconds
            )
            learner = Learner(
                running or FileSource(prompts or Path(), ledger.position),
                measuring, Pool(state / "samples", key, first=ledger.last_number + 1),
                ledger, store_of(store), state,
                Rules(mean, points, least_questions, look, tenant_share),
            )  # fmt: skip
            telemetry = from_environment("learn", VERSION, scraped=bool(metrics_listen))
            closing.callback(telemetry.shut_down)
            watch(telemetry.meters, learner, measuring)
            if telemetry.scraped is not None:
                page = MetricsPage(telemetry.scraped, metrics_listen, PageAccess(pages_token))
                page.start()
                closing.callback(page.stop)
            while True:
                try:
                    typer.echo(report(await learner.one_pass(), learner))
                except (OSError, BackendUnavailableError) as error:  # the scheduler, the LLM server, store, disk
                    if once:
                        raise
                    typer.secho(f"this pass ends, the next goes on: {error}", err=True, fg="yellow")
                if once:
                    return
                await asyncio.sleep(every)

    try:
        if bool(scheduler) == (prompts is not None):
            raise ValueError("--scheduler, --prompts: give one of them")
        if prompts is not None and not budget:
            raise ValueError("--budget: needed with --prompts; a scheduler would say it")
        if bool(reports_listen) != bool(layer):
            raise ValueError("--reports-listen, --layer: one needs the other")
        points = budget_points(budgets, windows)
        key = key_file.read_text() if key_file is not None else os.environ.get(KEY_VARIABLE, "")
        settings = SchedulerSettings(
            backend=backend, backend_url=backend_url, template=template, backend_model=backend_model,
            answer_tokens=answer_tokens, cap_tokens=max(128, points[-1]),
            reports_listen=reports_listen, reports_address=reports_address,
        )  # fmt: skip
        plan = Plan(
            TEMPLATES[template], points=points, samples=samples, answer_tokens=answer_tokens,
            sampling=Sampling(temperature=temperature),
        )  # fmt: skip
        asyncio.run(run())
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    except (CurvesFileError, ValueError, OSError, BackendUnavailableError) as error:
        raise failed(error) from None


def report(found: Pass, learner: Learner) -> str:
    """Return what came of a pass in a few lines."""
    standing, ledger = learner.ledger.standing, learner.ledger
    served = f"version {standing.default}" if standing.default else "none yet, budgets are uniform"
    candidate = (
        "" if standing.candidate is None else f"; version {standing.candidate.version}: {standing.candidate.step}"
    )
    return "\n".join(
        [
            f"{found.taken} new prompts, {found.measured} measured by {found.tokens:,} tokens ({ledger.tokens:,})",
            *[f"  {decision.word}: {decision.reason}" for decision in found.decisions],
            f"  served: {served}{candidate}",
        ]
    )
