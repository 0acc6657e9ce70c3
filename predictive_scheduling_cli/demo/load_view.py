"""What a person reads while the load rises and falls, and at its end. Pure: lines of rich's markup."""

from __future__ import annotations

from collections.abc import Sequence

from predictive_scheduling_cli.demo.load import (
    BUSY,
    QUANTILE,
    Asked,
    GivenUp,
    Phase,
    figures,
    given_up,
    phase_at,
)
from predictive_scheduling_cli.demo.open_loop import Fleet
from predictive_scheduling_cli.demo.summary import percentile

_BAR = 16
_LOOKED_BACK_SECONDS = 15.0  # of which a line tells the latency
_NAMED = 3  # kinds of question


class LoadView:
    """Turns what happened so far into a line every few seconds.

    ``arrivals``: when questions come, in rising seconds; ``promised``: seconds of the objective; ``most``: the largest
    mean budget.
    """

    def __init__(self, phases: Sequence[Phase], arrivals: Sequence[float], promised: float, most: float) -> None:
        """Start with nothing answered."""
        self._phases, self._arrivals, self._promised, self._most = phases, arrivals, promised, most
        self._told_at, self._told = 0.0, 0
        self.asked: list[Asked] = []

    def header(self) -> str:
        """The names of the columns."""
        return (
            f"[bold]{'time':>5} {'load':>5} {'come/s':>7} {'here':>5} {'fleet':>6}  {'mean budget':<{_BAR + 4}} "
            f"{'price':>6} {f'p{100 * QUANTILE:g}, of {self._promised:g} s':>13}  {'right':<8}[/bold]"
        )

    def line(self, fleet: Fleet, now: float) -> str:
        """What is to be said at ``now`` seconds; ``fleet`` is what the scheduler says of itself.

        Arrivals and right answers are those since the last line, latencies those of the last 15 seconds.
        """
        passed = max(1e-9, now - self._told_at)
        came = sum(self._told_at < at <= now for at in self._arrivals)
        new = self.asked[self._told :]
        self._told_at, self._told = now, len(self.asked)
        recent = [one.seconds for one in self.asked if one.result and one.at + one.seconds > now - _LOOKED_BACK_SECONDS]
        mean = self._most if fleet.mean_budget is None else fleet.mean_budget
        refused = sum(one.result is None for one in new)
        return (
            f"{f'{int(now) // 60}:{int(now) % 60:02}':>5} {f'{phase_at(self._phases, now).load:g}x':>5} "
            f"{came / passed:7.1f} {fleet.in_flight:5.0f} {fleet.load or 0.0:6.0%}  {mean:3.0f} {self._bar(mean)} "
            f"{1e4 * fleet.price:6.0f} {self._latency(recent)}  {f'{sum(one.right for one in new)} of {len(new)}':<8}"
            + (f" [red]{refused} refused[/red]" if refused else "")
        )

    def _bar(self, mean: float) -> str:
        filled = round(_BAR * min(1.0, mean / self._most))
        return f"[cyan]{'█' * filled}[/cyan][dim]{'░' * (_BAR - filled)}[/dim]"

    def _latency(self, seconds: Sequence[float]) -> str:
        if not seconds:
            return f"{'':>13}"
        quantile = percentile(seconds, QUANTILE)
        colour = "green" if quantile <= self._promised else "red"
        return f"[{colour}]{f'{quantile:.1f} s':>13}[/{colour}]"


def closing(asked: Sequence[Asked], phases: Sequence[Phase], promised: float) -> list[str]:
    """What is said at the end: what the load cost, and who gave up how much of their tokens, the most first."""

    def busy(at: float) -> bool:
        return phase_at(phases, at).name == BUSY

    calm, crowded = (figures([one for one in asked if busy(one.at) is wanted]) for wanted in (False, True))
    rows = given_up(asked, busy)
    lines = [
        f"[bold]{'kind':<10} {'tokens, calm':>12} {'busy':>6} {'gave up':>9} {'right, calm':>12} {'busy':>6}[/bold]",
        *(
            f"{row.family:<10} {row.calm_tokens:12.0f} {row.busy_tokens:6.0f} {row.tokens:9.0f} "
            f"{row.calm_right:12.0%} {row.busy_right:6.0%}"
            for row in rows
        ),
        "",
    ]
    if not calm["asked"] or not crowded["asked"]:
        return lines
    late = sum(one.seconds > promised for one in asked if busy(one.at) and one.result)
    lines.append(
        f"At twice the load a question had [bold]{crowded['tokens'] or 0:.0f} tokens instead of "
        f"{calm['tokens'] or 0:.0f}[/bold], and {crowded['right_of_asked']:.0%} were right instead of "
        f"{calm['right_of_asked']:.0%}. Of {crowded['asked']} questions {late} took longer than {promised:g} s, and "
        f"{crowded['refused']} were refused."
    )
    lines.append(_who(rows))
    return lines


def _who(rows: Sequence[GivenUp]) -> str:
    whole = sum(max(0.0, row.tokens) for row in rows)
    if not whole:
        return "Nobody gave up anything."
    most = rows[:_NAMED]
    names = ", ".join(f"{row.family} ({row.tokens:.0f} tokens, {_points(row)})" for row in most)
    share = sum(max(0.0, row.tokens) for row in most) / whole
    least = rows[-1]
    return (
        f"The most was given up by {names}: {share:.0%} of all tokens that were. The least by {least.family} "
        f"({max(0.0, least.tokens):.0f} tokens, {_points(least)})."
    )


def _points(row: GivenUp) -> str:
    return f"{100 * (row.busy_right - row.calm_right):+.0f} points right"
