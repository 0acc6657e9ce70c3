"""What the images are made of: files that exist, hashes that are asked for, and a bill of materials that is right."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from predictive_scheduling.version import VERSION

ROOT = Path(__file__).resolve().parents[3]
CONTAINERFILE = (ROOT / "images/Containerfile").read_text()


def test_stages_install_from_locks_and_run_as_nobody_in_particular():
    assert CONTAINERFILE.count("--require-hashes") == 1
    runtime = CONTAINERFILE.partition("AS runtime")[2]
    assert "RUN" not in runtime, "the last stages only copy"
    assert "USER 10001:10001" in runtime
    assert runtime.count("HEALTHCHECK") == 2
    assert f"ARG VERSION={VERSION}" in CONTAINERFILE
    assert ":latest" not in CONTAINERFILE
    locks = set(re.findall(r"\) build \S+ \S+ (\S+)", (ROOT / "images/build.sh").read_text()))
    assert locks == {path.stem for path in (ROOT / "locks").glob("*.txt")}


def test_the_manifests_name_images_that_are_built():
    built = set(re.findall(r"^ +([\w-]+)\) build", (ROOT / "images/build.sh").read_text(), re.MULTILINE))
    used = set()
    for path in (ROOT / "k8s").rglob("*.yaml"):
        used |= set(
            re.findall(r"(?:newName|image): registry\.example\.com/predictive-scheduling/([\w-]+)", path.read_text())
        )
    assert used <= built
    assert used == {
        "scheduler",
        "scheduler-embedded",
        "predictor-cpu",
        "predictor-gpu",
        "predictor-tensorrt",
        "exporters",
        "vllm-connector",
    }


def test_the_connectors_image_copies_it_to_a_volume_whose_root_it_need_not_own(tmp_path):
    stage = CONTAINERFILE.partition("AS vllm-connector")[2]
    ((source, inside),) = re.findall(r"^COPY (\S+) (\S+)$", stage, re.MULTILINE)
    shutil.copytree(ROOT / source, tmp_path / inside[1:], ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "target").mkdir()
    (words,) = re.findall(r"^ENTRYPOINT (.*)$", stage, re.MULTILINE)
    _, option, code = json.loads(words)
    code = code.replace("'/connector", f"'{tmp_path}/connector").replace("'/target/", f"'{tmp_path}/target/")
    for _ in range(2):  # a pod's init containers may run again
        subprocess.run([sys.executable, option, code], check=True)
    copied = {path.name for path in (tmp_path / "target/predictive_scheduling_vllm").iterdir()}
    assert copied == {path.name for path in (ROOT / source).iterdir()} - {"__pycache__"}
    assert "'/target'" not in words


def test_the_bill_of_materials_lists_every_package(tmp_path):
    inspected = {
        "installed": [
            {"metadata": {"name": "Zeta", "version": "2", "license_expression": "MIT"}},
            {"metadata": {"name": "alpha", "version": "1", "license": "BSD\nlong text"}},
            {"metadata": {"name": "bare", "version": "0"}},
        ]
    }
    (tmp_path / "inspect.json").write_text(json.dumps(inspected))
    command = [sys.executable, ROOT / "images/sbom.py", tmp_path / "inspect.json", tmp_path / "sbom.json"]
    subprocess.run(command, check=True)
    bill = json.loads((tmp_path / "sbom.json").read_text())
    assert (bill["bomFormat"], bill["specVersion"]) == ("CycloneDX", "1.5")
    assert [one["name"] for one in bill["components"]] == ["alpha", "bare", "Zeta"]
    assert bill["components"][2]["purl"] == "pkg:pypi/zeta@2"
    assert bill["components"][0]["licenses"] == [{"license": {"name": "BSD"}}]
