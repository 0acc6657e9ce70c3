"""The Kubernetes manifests as 'kubectl kustomize' renders them."""

from __future__ import annotations

import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[2] / "k8s"


@cache
def rendered(folder: Path) -> list[dict[str, Any]]:
    """What is made of a folder; nothing complains."""
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def of(folder: Path, *kinds: str) -> list[dict[str, Any]]:
    """Its documents of these kinds."""
    return [document for document in rendered(folder) if document["kind"] in kinds]


def deployed(folder: Path, name: str) -> dict[str, Any]:
    """The spec of a Deployment."""
    return next(one["spec"] for one in of(folder, "Deployment") if one["metadata"]["name"] == name)


def environment(folder: Path, template: dict[str, Any]) -> dict[str, str]:
    """The variables that a pod gets from its ConfigMaps; a later one wins."""
    maps = {document["metadata"]["name"]: document["data"] for document in of(folder, "ConfigMap")}
    found: dict[str, str] = {}
    for container in template["spec"]["containers"]:
        for source in container.get("envFrom", ()):
            found |= maps[source["configMapRef"]["name"]]
    return found
