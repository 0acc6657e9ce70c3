"""Whatever a command is to read is missing, a folder, or no such file: it says which, without a traceback."""

import pytest
from typer.testing import CliRunner

from predictive_scheduling_cli.main import app
from predictor_service.settings import SHIPPED_MODELS

MODEL = str(SHIPPED_MODELS / "demo-text")
COMMANDS = {
    "collect": "--questions BAD --out OUT --backend embedded --template demo",
    "collect with a model": "--questions QUESTIONS --out OUT --backend embedded --template demo --gguf BAD",
    "collect with an adapter": "--questions QUESTIONS --out OUT --backend embedded --template demo --adapter BAD",
    "features": "--questions BAD --out OUT --backend vllm --layers 1",
    "features of a model": "--questions QUESTIONS --out OUT --model BAD --template demo",
    "merge": "BAD --questions QUESTIONS --out OUT",
    "merge of questions": "PART --questions BAD --out OUT",
    "train": "text_curve --curves BAD --out OUT --name m",
    "export": "--checkpoint BAD --curves BAD --out OUT --name m",
    "parity": "--checkpoint BAD --model BAD --curves BAD",
    "familiarise": "--model BAD --curves BAD --version 2",
    "evaluate": f"--curves BAD --model {MODEL} --json OUT",
    "evaluate by states": f"--curves CURVES --model {MODEL} --hidden-states BAD --json OUT",
    "evaluate a model": "--curves CURVES --model BAD --json OUT",
    "report": "BAD --out OUT",
    "simulate": "--curves BAD",
    "simulate a model": "--curves CURVES --model BAD",
    "simulate times": "--curves CURVES --arrivals BAD",
}


@pytest.mark.parametrize("bad", ["missing", "folder", "bytes"])
@pytest.mark.parametrize("command", COMMANDS)
def test_what_cannot_be_read_is_named(tmp_path, command, bad):
    (tmp_path / "folder").mkdir()
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00PAR1\x00\x93NUMPY")
    (tmp_path / "questions.jsonl").write_text('{"question_id": "q", "question": "?", "expected": "1"}\n')
    named = {
        "BAD": tmp_path / bad, "OUT": tmp_path / "out", "QUESTIONS": tmp_path / "questions.jsonl",
        "PART": tmp_path / "part.parquet", "CURVES": "exporters/demo/data/curves.parquet",
    }  # fmt: skip
    words = [str(named.get(word, word)) for word in COMMANDS[command].split()]
    result = CliRunner().invoke(app, [command.split()[0], *words])
    assert isinstance(result.exception, SystemExit), result.exception
    assert result.exit_code != 0
    assert bad in result.output
