"""docs/vllm.md: its table of models says what the templates say, and its commands fit each other."""

import json
import re
import shlex
from pathlib import Path

import pytest

from scheduler_service.domain import Sampling
from scheduler_service.generation.backends.openai import parameters
from scheduler_service.generation.engine_reports import parse_listen
from scheduler_service.generation.forcing import BudgetForcing
from scheduler_service.generation.templates import TEMPLATES
from scheduler_service.settings import SchedulerSettings

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/vllm.md").read_text()
CONNECTOR = ROOT / "engines/vllm"


def rows(heading):
    """The rows of the first table under a heading: cells by the names of their columns, without code marks."""
    section = PAGE.partition(f"## {heading}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    cells = [
        [cell.strip().strip("`").replace("\\|", "|") for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines
    ]
    header, _, *body = cells
    return [dict(zip(header, row, strict=True)) for row in body]


MODELS = rows("Models")


def commands(program):
    """The page's commands of a program, as words."""
    text = re.sub(r"\\\n\s*", " ", "".join(re.findall(r"^```sh\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)))
    words = [shlex.split(line, comments=True) for line in text.splitlines()]
    return [[word for word in line if word != "&"] for line in words if line[: len(program)] == program]


def options(words):
    """Options with a value by their names, those without one as True."""
    found, at = {}, 0
    while at < len(words):
        if words[at].startswith("--"):
            valued = at + 1 < len(words) and not words[at + 1].startswith("--")
            found[words[at][2:].replace("-", "_")] = words[at + 1] if valued else True
            at += valued
        at += 1
    return found


@pytest.mark.parametrize("row", MODELS, ids=lambda row: row["model"])
def test_marks_of_the_table_are_those_of_the_template(row):
    template = TEMPLATES[row["our template"]]
    assert template.prompt.rstrip("\n").endswith(row["start mark"])
    assert template.think_end == row["end mark"]
    assert json.loads(row["--reasoning-config"]) == {
        "reasoning_start_str": row["start mark"],
        "reasoning_end_str": row["end mark"],
    }
    assert row["who writes the start mark"] in ("the model", "the chat template")


def test_every_template_of_a_published_model_is_in_the_table():
    assert {row["our template"] for row in MODELS} == set(TEMPLATES) - {"demo"}


def test_marks_that_vllm_would_leave_out_are_asked_for():
    for row in MODELS:
        call = BudgetForcing(TEMPLATES[row["our template"]], "q", 8, 8).next_call()
        assert call is not None
        special = "<|" in row["end mark"]
        assert (parameters(call, Sampling(), "m").get("skip_special_tokens") is False) is special, row["model"]


def test_the_schedulers_flags_are_settings_that_fit_each_other():
    served = [SchedulerSettings(**options(words)) for words in commands(["predictive-scheduling", "scheduler"])]
    assert [bool(one.reports_listen) for one in served] == [False, True]
    for words in commands(["predictive-scheduling"]):
        given = options(words)
        assert given.get("template", "demo") in TEMPLATES
        if "reports_listen" in given:
            parse_listen(given["reports_listen"])


def test_states_are_allowed_where_the_page_lets_them_be_taken(monkeypatch):
    monkeypatch.syspath_prepend(CONNECTOR)
    from predictive_scheduling_vllm.destinations import Allowed, parse_address

    (plain, keeping) = (options(words) for words in commands(["vllm", "serve"]))
    assert "kv_transfer_config" not in plain
    transfer = json.loads(keeping["kv_transfer_config"])
    assert (CONNECTOR / (transfer["kv_connector_module_path"].replace(".", "/") + ".py")).exists()
    allowed = Allowed(transfer["kv_connector_extra_config"]["destinations"])
    taken = [options(words) for words in commands(["predictive-scheduling"])]
    taken = [given["reports_listen"] for given in taken if "reports_listen" in given]
    assert len(taken) == 2
    assert all(parse_address(listen) in allowed for listen in taken)
    (elsewhere,) = re.findall(r'`"destinations": (\["tcp:.*?\])`', PAGE)
    (told,) = re.findall(r"--reports-address (\S+)", PAGE)
    assert parse_address(told) in Allowed(json.loads(elsewhere))

    kept = json.loads(keeping["speculative_config"])["draft_model_config"]["hf_config"]
    (read,) = (options(words) for words in commands(["predictive-scheduling", "features"]))
    (trained,) = (options(words) for words in commands(["predictive-scheduling", "train"]))
    layers = [int(layer) for layer in read["layers"].split(",")]
    assert layers == kept["eagle_aux_hidden_state_layer_ids"]
    assert trained["layer"] == str(layers[0])
    assert trained["hidden_states"] == f"{read['out']}/layer-{layers[0]:02}.npz"


def test_every_result_that_the_connector_counts_is_explained():
    (results,) = re.findall(
        r"^RESULTS = \((.*?)\)", (CONNECTOR / "predictive_scheduling_vllm/stats.py").read_text(), re.M
    )
    (line,) = (line for line in PAGE.splitlines() if line.startswith("| `vllm:prompt_states_total"))
    assert set(re.findall(r"\w+", results)) <= set(re.findall(r"`(\w+)`", line))
