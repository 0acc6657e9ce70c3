"""Write a split of the demo's tasks as a questions file: ``python -m exporters.demo.questions SPLIT FILE.jsonl``."""

from __future__ import annotations

import json
from pathlib import Path

import typer

from exporters.demo.tasks import split_tasks


def main(split: str, out: Path) -> None:
    """Write the questions of ``test`` or ``curves``, their families as groups."""
    rows = [
        {"question_id": f"{split}_{at}", "question": task.question, "expected": task.answer, "group": task.family}
        for at, task in enumerate(getattr(split_tasks(), split))
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text("".join(json.dumps(row) + "\n" for row in rows))


if __name__ == "__main__":
    typer.run(main)
