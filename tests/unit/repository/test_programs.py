"""What a run of the tests says about the programs that it did not find."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.programs import PROGRAMS, not_tested

ROOT = Path(__file__).resolve().parents[3]
OF_PROMTOOL = "tests/unit/predictive_scheduling/test_openmetrics.py"


def test_what_was_not_tested_is_told_with_the_command_that_installs_it():
    lines = not_tested({"promtool": 3, "chromium": 2, "prometheus": 1, "kubectl": 40})
    assert "promtool is missing: 3 skipped, of the alerts, and the format of the metrics pages" in lines
    assert "to install: apt-get install --no-install-recommends chromium prometheus" in lines
    assert any(line.startswith("to install kubectl: https://") for line in lines)
    assert not_tested({}) == []


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
def test_every_program_says_how_it_is_installed(program):
    assert bool(program.package) != bool(program.install)


def test_every_program_is_needed_and_every_need_is_declared():
    texts = [path.read_text() for path in (ROOT / "tests").rglob("test_*.py")]
    assert {name for text in texts for name in re.findall(r'needs\("([\w-]+)"\)', text)} == set(PROGRAMS)


def test_a_run_without_the_programs_ends_by_saying_so(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", OF_PROMTOOL],
        cwd=ROOT, env={**os.environ, "PATH": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "not tested here" in done.stdout
    assert "promtool is missing: 1 skipped" in done.stdout
    assert "apt-get install --no-install-recommends prometheus" in done.stdout
