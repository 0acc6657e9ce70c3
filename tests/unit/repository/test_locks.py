"""The locks that images install from hold what the extras ask for, pinned and hashed, and nothing that is heavy."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[3]
LOCKS = {
    "scheduler": ["scheduler", "shared"],
    "predictor": ["predictor"],
    "predictor-gpu": ["predictor-gpu"],
    "train": ["train", "learn"],
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def wanted(extras):
    """The requirements of extras, those of our own extras in them included."""
    found = [Requirement(text) for text in PROJECT["dependencies"]]
    for extra in extras:
        for text in PROJECT["optional-dependencies"][extra]:
            requirement = Requirement(text)
            if requirement.name == PROJECT["name"]:
                found += wanted(requirement.extras)
            else:
                found.append(requirement)
    return found


def locked(name):
    """Versions by package, and how many hashes each has."""
    versions, package = {}, ""
    for line in (ROOT / "locks" / f"{name}.txt").read_text().splitlines():
        if match := re.match(r"([A-Za-z0-9._-]+)==([^ ;]+)", line):
            package = canonicalize_name(match[1])
            versions[package] = [match[2], 0]
        versions.setdefault(package, ["", 0])[1] += line.count("--hash=sha256:")
    return versions


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_satisfies_its_extras_and_every_package_has_hashes(name):
    versions = locked(name)
    for requirement in wanted(LOCKS[name]):
        assert canonicalize_name(requirement.name) in versions, f"run 'make locks': {requirement} is missing"
        version = versions[canonicalize_name(requirement.name)][0]
        assert requirement.specifier.contains(version, prereleases=True), f"run 'make locks': {requirement}, {version}"
    assert all(hashes for _, hashes in versions.values())


def test_the_services_are_light():
    assert not {"torch", "onnxruntime", "transformers", "xllamacpp", "ray"} & locked("scheduler").keys()
    assert not {"torch", "transformers", "aiohttp", "xllamacpp", "ray"} & locked("predictor").keys()
