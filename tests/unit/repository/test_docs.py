"""The documents: links lead somewhere, commands and metrics that they name exist, the site builds without network."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import yaml

from predictive_scheduling_cli.main import app
from scheduler_service.api.budget_words import BudgetFields
from scheduler_service.domain import Effort

ROOT = Path(__file__).parents[3]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])
COMMANDS = typer.main.get_command(app)


def text_of(page):
    return page.read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_no_merge_was_left_half_done(page):
    assert not re.search(r"^(<{7} |>{7} |={7}$)", text_of(page), re.MULTILINE)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page):
    prose = re.sub(r"^```.*?^```", "", text_of(page), flags=re.DOTALL | re.MULTILINE)
    for target in re.findall(r"\]\(((?!http|mailto)[^)#]+)[^)]*\)", prose):
        assert (page.parent / target).exists(), target


def command_lines(page):
    """The commands of a page's shell blocks, each in one line."""
    text = re.sub(r"\\\n\s*", " ", text_of(page))
    fenced = re.findall(r"^```sh\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    indented = re.findall(r"^    (predictive-scheduling .*)$", text, re.MULTILINE)
    lines = [line for block in fenced for line in block.splitlines()] + indented
    return [line for line in lines if line.startswith("predictive-scheduling ")]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_flags_exist(page):
    for line in command_lines(page):
        words = [word for word in shlex.split(line, comments=True) if word not in ("&", "…")][1:]
        command = COMMANDS
        while words and hasattr(command, "commands"):
            assert words[0] in command.commands, f"{words[0]} in {line}"
            command = command.commands[words.pop(0)]
        known = {flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)}
        for word in words:
            if word.startswith("--"):
                assert word.partition("=")[0] in known, f"{word} in {line}"


def test_there_are_commands_to_check():
    assert sum(len(command_lines(page)) for page in PAGES) > 20


def test_programs_that_pages_run_exist():
    for page in PAGES:
        for module in re.findall(r"python -m ((?:benchmarks|exporters|tools|tests)[.\w]*)", text_of(page)):
            path = ROOT / module.replace(".", "/")
            assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), f"{module} in {page.name}"
        for target in re.findall(r"`make ((?:[a-z-]+ ?)+)`", text_of(page)):
            for one in target.split():
                assert re.search(rf"^{one}:", (ROOT / "Makefile").read_text(), re.MULTILINE), f"{one} in {page.name}"


def test_metrics_that_pages_name_are_on_the_metrics_page():
    known = text_of(ROOT / "docs/metrics.md")
    for page in PAGES:
        for name in re.findall(r"`(predictive_scheduling_[a-z_]+_[a-z]+)`", text_of(page)):
            assert f"`{name}`" in known or (ROOT / name).exists(), f"{name} in {page.name}"


def test_every_word_about_a_budget_has_its_meaning_in_the_table():
    table = text_of(ROOT / "docs/api.md").split("## The words that callers use")[1].split("**Caps.**")[0]
    words = [
        word for row in re.findall(r"^\| (`[^|]*) \|", table, re.MULTILINE) for word in re.findall(r"`(.+?)`", row)
    ]
    assert {word.partition(".")[0] for word in words} == set(BudgetFields.model_fields)
    assert {effort.value for effort in Effort} <= set(re.findall(r"`([a-z]+)`", table))


def test_every_page_is_in_the_sites_navigation():
    def pages(entries):
        for entry in entries:
            for value in entry.values():
                yield from pages(value) if isinstance(value, list) else [value]

    navigation = set(pages(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]))
    assert navigation == {page.name for page in (ROOT / "docs").glob("*.md")}


def test_the_site_builds_strictly_and_fetches_nothing(tmp_path):
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    pages = list(tmp_path.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        fetched = re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=\"?(https?://[^\" >]+)", page.read_text())
        assert not [url for url in fetched if "canonical" not in url], page.name
    for picture in tmp_path.rglob("*.svg"):
        assert not re.search(r"(?:url\(|href=)[\"']?https?:", picture.read_text()), picture.name
