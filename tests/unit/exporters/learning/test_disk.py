"""Writes are whole or have not happened."""

import pytest

from exporters.learning.disk import Disk, whole_lines


def test_what_a_kill_left_of_a_line_is_cut_off_before_the_next(tmp_path):
    path = tmp_path / "lines"
    path.write_bytes(b"one\ntw")
    assert whole_lines(path) == [b"one"]
    Disk().append(path, b"three")
    assert whole_lines(path) == [b"one", b"three"]
    path.write_bytes(b"no end at all")
    Disk().append(path, b"first")
    assert path.read_bytes() == b"first\n"


def test_a_file_that_is_not_there_has_no_lines(tmp_path):
    assert whole_lines(tmp_path / "none") == []


def test_a_link_is_exchanged_and_a_placed_folder_replaces_another(tmp_path):
    disk = Disk()
    for name in ("a", "b"):
        (tmp_path / f".{name}").mkdir()
        (tmp_path / f".{name}/file").write_text(name)
        disk.place(tmp_path / f".{name}", tmp_path / "placed")
        disk.link(tmp_path / "link", "placed")
        assert (tmp_path / "link/file").read_text() == name
    disk.remove(tmp_path / "link")
    assert (tmp_path / "placed/file").exists()
    disk.remove(tmp_path / "placed")
    assert list(tmp_path.iterdir()) == []


def test_a_write_that_is_stopped_before_it_happens_leaves_what_was_there(tmp_path):
    Disk().write(tmp_path / "file", b"old")

    def stop(operation):
        raise RuntimeError(operation)

    with pytest.raises(RuntimeError, match="write file"):
        Disk(stop).write(tmp_path / "file", b"new")
    assert (tmp_path / "file").read_bytes() == b"old"
