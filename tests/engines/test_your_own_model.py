"""The commands of docs/your-own-model.md, on a real vLLM, whose model they do not name."""

import pytest

from tests.e2e.test_docs_your_own_model import SMALL, run_the_commands


@pytest.mark.timeout(1800)
async def test_the_five_commands_lead_from_a_real_vllm_to_a_served_predictor(vllm, tmp_path):
    collect = ["--backend-url", vllm.url, "--template=demo", "--samples=1", "--windows=4", "--check=exact"]
    await run_the_commands(tmp_path, {**SMALL, "collect": collect})
