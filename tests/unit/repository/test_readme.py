"""What the README shows runs as it stands there."""

import re
from pathlib import Path

from scheduler_service.settings import SchedulerSettings

README = (Path(__file__).parents[3] / "README.md").read_text()


def test_every_flag_of_the_readme_exists():
    block = README[
        README.index("predictive-scheduling scheduler --listen") : README.index("predictive-scheduling generate")
    ]
    flags = [flag.replace("-", "_") for flag in re.findall(r"--([a-z-]+) ", block)]
    assert len(flags) >= 6
    assert set(flags) <= set(SchedulerSettings.model_fields)


def test_links_lead_to_files():
    for target in re.findall(r"\]\(((?!http)[^)#]+)\)", README):
        assert (Path(__file__).parents[3] / target).exists(), target
