"""The commands that call a scheduler, where texts are anybody's and a user is mistaken."""

import pytest
from typer.testing import CliRunner

from predictive_scheduling.scheduler.v1 import scheduler_pb2 as pb
from predictive_scheduling_cli import calls, top
from predictive_scheduling_cli.main import app

NOBODY = ("--scheduler", "127.0.0.1:9")
STRANGE = "a [/b] of [red]c[/red] :heart: [link=d]"


class Scripted:
    """A client whose scheduler says strange things."""

    def __init__(self, *_, **__):
        self.stub = self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def Allocate(self, request, **_):
        return pb.AllocateResponse(allocations=[pb.Allocation() for _ in request.items])

    def find(self, _):
        return pb.RequestRecord(allocation=pb.Allocation(explanation=STRANGE), error=STRANGE)

    def generate(self, *_, **__):
        yield pb.GenerateResponse(allocation=pb.Allocation(explanation=STRANGE))
        yield pb.GenerateResponse(text=pb.TextChunk(text=STRANGE))
        yield pb.GenerateResponse(usage=pb.Usage())

    def status(self, _):
        predictors = [pb.PredictorRecord(predictor=STRANGE)]
        return pb.GetStatusResponse(model=STRANGE, predictors=predictors, failed_requests={STRANGE: 1})


def run(*words, **options):
    return CliRunner().invoke(app, words, env={"COLUMNS": "250"}, **options)


@pytest.mark.parametrize(
    ("words", "times"),
    [(("generate", "x"), 2), (("allocate", "-"), 2), (("explain", "x"), 2), (("top", "--once"), 3)],
)
def test_what_stands_in_brackets_or_between_colons_is_shown_as_it_is(monkeypatch, words, times):
    for module in (calls, top):
        monkeypatch.setattr(module, "SchedulerClient", Scripted)
    done = run(*words, input=f"{STRANGE}\n{STRANGE}\n")
    assert done.exit_code == 0, done.exception
    assert done.output.count(STRANGE) == times


def test_a_line_of_prompts_ends_where_the_files_line_does(monkeypatch, tmp_path):
    monkeypatch.setattr(calls, "SchedulerClient", Scripted)
    (tmp_path / "prompts").write_text("one\u2028of two\n\n  \nthree\n")
    done = run("allocate", str(tmp_path / "prompts"), "--json")
    assert done.exit_code == 0, done.exception
    assert done.output.count("{}") == 2


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("generate", "x", "--max-tokens", "-1"), "--max-tokens"),
        (("generate", "x", "--max-tokens", "99999999999"), "--max-tokens"),
        (("generate", "x\udcff"), "prompt"),
        (("generate", "-"), "prompt"),
        (("allocate", "-", "--tokens", "-1"), "--tokens"),
        (("allocate", "-"), "-"),
        (("allocate", "no such file"), "no such file"),
        (("explain", "x\udcff"), "request_id"),
    ],
)
def test_what_cannot_be_sent_is_named(words, named):
    done = run(*words, *NOBODY, input=b"\xff\xfe")
    assert isinstance(done.exception, SystemExit), done.exception
    assert done.exit_code == 2
    assert named in done.output
