"""The picture of the architecture shows every room and module."""

from pathlib import Path

import pytest

from tools.reference.picture import floors, modules

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("package", ["scheduler_service", "exporters"])
def test_every_room_and_module_of_a_package_stands_on_a_floor(package):
    on_floors = {room for floor in floors(package) for room in floor}
    assert on_floors >= {path.parent.name for path in (ROOT / package).glob("*/__init__.py")}
    assert on_floors >= {path.stem for path in (ROOT / package).glob("*.py")} - {"__init__"}


def test_the_picture_lists_the_modules_and_folders_of_a_room():
    assert {"dispatcher", "forcing", "backends"} <= set(modules("scheduler_service", "generation"))
    assert modules("scheduler_service", "pipeline") == []
