"""The programs that some tests need and no package of Python brings; without them those tests are skipped.

A test, a class or a module (``pytestmark``) says ``needs("redis-server")``. At its end, a run says what it has not
tested and how to install what was missing.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass

import pytest

needs = pytest.mark.needs


@dataclass(frozen=True)
class Program:
    """``tests``: what cannot be tested without it. ``package``: Debian's; empty where ``install`` says another way.

    ``commands``: its names, of which one will do; its own where there is no other.
    """

    name: str
    tests: str
    package: str = ""
    install: str = ""
    commands: tuple[str, ...] = ()

    @property
    def path(self) -> str | None:
        """Where it is, or ``None``."""
        return next((path for path in map(shutil.which, self.commands or (self.name,)) if path), None)


PROGRAMS = {
    program.name: program
    for program in (
        Program("redis-server", "budgets that schedulers share, and the cluster", "redis-server"),
        Program("prometheus", "the metrics pages and the dashboard's queries", "prometheus"),
        Program("promtool", "the alerts, and the format of the metrics pages", "prometheus"),
        Program(
            "chromium",
            "the status page and the demo's pages in a browser",
            "chromium",
            commands=("chromium", "chromium-browser", "google-chrome"),
        ),
        Program("npm", "the Node example", "npm"),
        Program(
            "kubectl",
            "the Kubernetes manifests",
            install="https://kubernetes.io/docs/tasks/tools/ (Debian 12 has one that is too old)",
        ),
    )
}


def not_tested(skipped: Mapping[str, int]) -> list[str]:
    """Lines that say what was not tested; ``skipped``: how many tests each missing program cost."""
    missing = [PROGRAMS[name] for name in sorted(skipped)]
    lines = [f"{program.name} is missing: {skipped[program.name]} skipped, of {program.tests}" for program in missing]
    if packages := sorted({program.package for program in missing if program.package}):
        lines.append(f"to install: apt-get install --no-install-recommends {' '.join(packages)}")
    lines += [f"to install {program.name}: {program.install}" for program in missing if program.install]
    return lines
