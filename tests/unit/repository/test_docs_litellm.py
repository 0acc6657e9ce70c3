"""docs/litellm.md: its table of variables says what the settings say, and its configuration names what there is."""

import re
from pathlib import Path

import yaml
from pydantic import SecretStr

from predictive_scheduling.litellm_settings import LiteLlmSettings

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs/litellm.md").read_text()
WORDS = {"SCHEDULER": "", "MODELS": "all"}  # of defaults that are no values


def shown(name, default):
    """A default as the table shows it."""
    value = default.get_secret_value() if isinstance(default, SecretStr) else default
    return WORDS.get(name, f"`{value}`" if value else "")


def test_the_table_lists_every_variable_with_its_default():
    rows = re.findall(r"^\| `([A-Z_]+)` \|([^|]*)\|", PAGE, re.MULTILINE)
    fields = LiteLlmSettings.model_fields
    assert {name: default.strip() for name, default in rows} == {
        name.upper(): shown(name.upper(), field.default) for name, field in fields.items()
    }


def test_variables_that_the_page_sets_exist():
    found = re.findall(r"PREDICTIVE_SCHEDULING_([A-Z_]+)=", PAGE)
    assert found
    assert {name.lower() for name in found} <= set(LiteLlmSettings.model_fields)


def test_the_configuration_names_the_callback():
    block = re.search(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    module, _, name = yaml.safe_load(block[1])["litellm_settings"]["callbacks"][0].rpartition(".")
    source = (ROOT / f"{module.replace('.', '/')}.py").read_text()
    assert re.search(rf"^{name} = ", source, re.MULTILINE)
