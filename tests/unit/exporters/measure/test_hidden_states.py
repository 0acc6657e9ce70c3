"""Hidden states files: in the order of the curves, refused with what is wrong."""

import numpy as np
import pytest

from exporters.faults import CurvesFileError
from exporters.measure.hidden_states import read_hidden_states
from tests.builders.measurements import write_files


def test_hidden_states_come_back_in_the_order_of_the_curves(tmp_path):
    ids = write_files(tmp_path)
    straight = read_hidden_states(tmp_path / "h.npz", ids)
    assert (read_hidden_states(tmp_path / "h.npz", ids[::-1]) == straight[::-1]).all()


def test_a_faulty_hidden_states_file_is_refused(tmp_path):
    ids = write_files(tmp_path)
    path = tmp_path / "h.npz"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CurvesFileError, match=r"h\.npz: not a readable \.npz"):
        read_hidden_states(path, ids)
    path.write_bytes(whole)
    with pytest.raises(CurvesFileError, match=r"no row for stranger \(1 of 31"):
        read_hidden_states(path, [*ids, "stranger"])
    np.savez(path, question_id=np.array(ids))
    with pytest.raises(CurvesFileError, match="no key hidden_state"):
        read_hidden_states(path, ids)
    np.savez(path, question_id=np.array(ids), hidden_state=np.zeros((5, 4)))
    with pytest.raises(CurvesFileError, match="does not fit 30 question ids"):
        read_hidden_states(path, ids)
    np.savez(path, question_id=np.array([*ids[:-1], ids[0]]), hidden_state=np.zeros((30, 4)))
    with pytest.raises(CurvesFileError, match="q0 stands there twice"):
        read_hidden_states(path, ids)
    broken = np.zeros((30, 4))
    broken[7, 2] = np.nan
    np.savez(path, question_id=np.array(ids), hidden_state=broken)
    with pytest.raises(CurvesFileError, match=r"row 7 \(q7\), hidden_state"):
        read_hidden_states(path, ids)
