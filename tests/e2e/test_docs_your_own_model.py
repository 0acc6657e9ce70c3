"""The five commands of docs/your-own-model.md, on the embedded LLM: from a question file to a served predictor."""

import asyncio
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from exporters.demo.tasks import split_tasks
from predictive_scheduling import AsyncPredictorClient
from predictive_scheduling.predictor.v1 import predictor_pb2

PAGE = (Path(__file__).parents[2] / "docs/your-own-model.md").read_text()
COMMANDS = re.findall(r"^predictive-scheduling .*$", PAGE, re.MULTILINE)
# A server of one's own becomes the embedded LLM; a small run takes fewer samples, windows and members.
SMALL = {
    "collect": [
        "--backend=embedded", "--backend-url=", "--template=demo", "--samples=1", "--windows=4", "--check=exact",
    ],
    "train": ["--members=2", "--epochs=2", "--min-texts=2"],
    "evaluate": [],
    "predictor": ["--listen=127.0.0.1:0"],
}  # fmt: skip


def write_questions(path, tasks):
    rows = [{"question_id": f"q{at}", "question": one.question, "expected": one.answer} for at, one in enumerate(tasks)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.timeout(1800)
async def test_the_five_commands_lead_from_questions_to_a_served_predictor(tmp_path):
    await run_the_commands(tmp_path, SMALL)


async def run_the_commands(tmp_path, options):
    """Run the page's commands in a folder, each with more ``options``, on a few questions."""
    tasks = split_tasks()
    write_questions(tmp_path / "questions.jsonl", tasks.curves[:12])
    write_questions(tmp_path / "held-out.jsonl", tasks.test[:6])
    assert len(COMMANDS) == 5
    *steps, serve = ([*shlex.split(line)[1:], *options[line.split()[1]]] for line in COMMANDS)
    for step in steps:
        command = [sys.executable, "-m", "predictive_scheduling_cli", *step]
        done = await asyncio.to_thread(
            subprocess.run, command, cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{step}: {done.stderr[-2000:]}"
    assert (tmp_path / "mine.html").stat().st_size > 10_000
    served = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "predictive_scheduling_cli", *serve, cwd=tmp_path, stderr=asyncio.subprocess.PIPE
    )
    try:
        async for line in served.stderr:
            if b"listening on port" in line:
                break
        async with AsyncPredictorClient(f"127.0.0.1:{line.split()[-1].decode()}") as client:
            reply = await client.stub.Predict(
                predictor_pb2.PredictRequest(queries=[predictor_pb2.Query(text="What is 3 + 4?")])
            )
        assert reply.model == "mine"
        assert len(reply.predictions[0].curve) == 4
    finally:
        served.terminate()
        await served.communicate()
