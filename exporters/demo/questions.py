"""Write a split of the demo's tasks as a questions file.

Run ``python -m exporters.demo.questions SPLIT FILE.jsonl``, with ``--long`` for the long questions.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from exporters.demo.long_tasks import splits


def main(split: str, out: Path, long: Annotated[bool, typer.Option("--long", help="The long ones.")] = False) -> None:
    """Write the questions of ``test`` or ``curves``, their families as groups."""
    rows = [
        {"question_id": f"{split}_{at}", "question": task.question, "expected": task.answer, "group": task.family}
        for at, task in enumerate(getattr(splits(long=long), split))
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    typer.run(main)
