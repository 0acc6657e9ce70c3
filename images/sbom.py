"""Turn ``pip inspect`` into a CycloneDX bill of materials: ``sbom.py inspect.json sbom.cdx.json``."""

import json
import sys
from pathlib import Path

inspected, out = map(Path, sys.argv[1:])
components = []
for package in json.loads(inspected.read_text())["installed"]:
    meta = package["metadata"]
    name, version = meta["name"], meta["version"]
    component = {"type": "library", "name": name, "version": version, "purl": f"pkg:pypi/{name.lower()}@{version}"}
    if said := meta.get("license_expression") or meta.get("license"):
        component["licenses"] = [{"license": {"name": said.splitlines()[0][:80]}}]
    components.append(component)
components.sort(key=lambda component: component["name"].lower())
document = {"bomFormat": "CycloneDX", "specVersion": "1.5", "version": 1, "components": components}
out.write_text(json.dumps(document, indent=1) + "\n")
