"""Small curves and hidden states files."""

import numpy as np
from hypothesis import strategies as st

from exporters.experiments.samples import SMOOTHINGS
from exporters.measure.curves import write_curves


def write_files(folder, count=30, size=4):
    ids = [f"q{n}" for n in range(count)]
    rng = np.random.default_rng(0)
    curves = np.sort(rng.random((count, 16)), axis=1)
    columns = {
        "question_id": ids,
        "question": [f"question {n}" for n in range(count)],
        "accuracy_at_window": curves.tolist(),
    }
    write_curves(folder / "c.parquet", columns)
    np.savez(
        folder / "h.npz", question_id=np.array(ids), hidden_state=rng.normal(size=(count, size)).astype(np.float16)
    )
    return ids


METHODS = sorted({name for names in SMOOTHINGS.values() for name in names})


@st.composite
def proportions(draw_one):
    """Proportions (n, K) of so many samples a question: from one sample to hundreds, one question, one point."""
    samples = draw_one(st.integers(1, 300))
    shape = draw_one(st.integers(1, 12)), draw_one(st.integers(1, 8))
    counts = draw_one(st.lists(st.integers(0, samples), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1]))
    return np.reshape(counts, shape) / samples, samples
