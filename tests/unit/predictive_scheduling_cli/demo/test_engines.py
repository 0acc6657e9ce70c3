"""The demo's vLLM: its options fit our connector and scheduler, and one that does not start says why."""

import json
from pathlib import Path

import pytest
from predictive_scheduling_vllm.destinations import Allowed, parse_address

from predictive_scheduling_cli.demo.engines import LAYER, EngineFailedError, connector, no_drafts, running_vllm
from predictor_service.artifact import read_manifest
from predictor_service.settings import SHIPPED_MODELS
from scheduler_service.settings import SchedulerSettings
from tests.waiting import eventually


def option(words, name):
    """The JSON of an option."""
    return json.loads(words[words.index(name) + 1])


def test_the_connector_may_send_to_where_the_demos_scheduler_listens_and_nowhere_else():
    options = option(connector("unix:/srv/demo/*.sock"), "--kv-transfer-config")
    allowed = Allowed(options["kv_connector_extra_config"]["destinations"])
    listen = SchedulerSettings(
        backend="vllm", backend_url="http://127.0.0.1:1", reports_listen="unix:/srv/demo/states.sock"
    ).reports_listen
    assert parse_address(listen) in allowed
    assert parse_address("unix:/srv/other/states.sock") not in allowed


def test_the_engine_keeps_the_layer_that_the_demos_predictor_takes():
    kept = option(no_drafts(LAYER), "--speculative-config")["draft_model_config"]["hf_config"]
    assert kept == {"eagle_aux_hidden_state_layer_ids": [read_manifest(SHIPPED_MODELS / "demo-hidden").layer]}


def environment(tmp_path, script):
    """A virtual environment whose interpreter is a shell script."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "model").mkdir()
    python = tmp_path / "bin" / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    return tmp_path


async def test_where_there_is_no_vllm_what_to_do_is_said(tmp_path):
    with pytest.raises(EngineFailedError, match="make demo ENGINE=vllm"):
        async with running_vllm(tmp_path, tmp_path / "log"):
            pass


async def test_a_server_that_ends_before_it_is_ready_is_an_error_with_the_end_of_its_log(tmp_path):
    folder = environment(tmp_path, "echo starting; echo 'no memory' >&2; exit 3")
    with pytest.raises(EngineFailedError, match=r"(?s)ended before it was ready.*starting\nno memory"):
        async with running_vllm(folder, tmp_path / "log"):
            pass


async def test_a_server_that_is_never_ready_is_ended_with_its_workers(tmp_path, monkeypatch):
    monkeypatch.setattr("predictive_scheduling_cli.demo.engines._READY_SECONDS", 0.5)
    folder = environment(tmp_path, f"sleep 600 & echo $! > {tmp_path}/worker; wait")
    with pytest.raises(EngineFailedError, match=r"was not ready in 0\.5 s"):
        async with running_vllm(folder, tmp_path / "log"):
            pass
    if (tmp_path / "worker").exists():  # else it did not get so far
        worker = int((tmp_path / "worker").read_text())
        await eventually(lambda: not runs(worker))


def runs(process):
    """Whether a process is there, and not only waits for its parent to take note of its end."""
    try:
        return Path(f"/proc/{process}/cmdline").read_bytes() != b""
    except (FileNotFoundError, ProcessLookupError):
        return False
