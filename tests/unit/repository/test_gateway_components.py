"""The components for gateways say what the example of a plain Envoy says, each in its control plane's words."""

import os
import re

import pytest
import yaml

from scheduler_service.gateway.budgets import BUDGET_HEADER, REQUEST_HEADER, USAGE_HEADER
from scheduler_service.settings import SchedulerSettings
from tests.builders.manifests import ROOT, deployed, environment, of
from tests.programs import needs

pytestmark = needs("kubectl")

ENVOY_GATEWAY, ISTIO = (ROOT / "overlays" / name for name in ("gateway-envoy", "gateway-istio"))
BOTH = pytest.mark.parametrize("folder", [ENVOY_GATEWAY, ISTIO], ids=lambda folder: folder.name)
EXAMPLE = ROOT.parent / "examples" / "gateway"
LUA = (EXAMPLE / "usage.lua").read_text()
OURS = {REQUEST_HEADER, BUDGET_HEADER, USAGE_HEADER}
PORT = 50060


def one(folder, kind, name=None):
    (found,) = (document for document in of(folder, kind) if name in (None, document["metadata"]["name"]))
    return found


def manager():
    """The example's HTTP connection manager."""
    (listener,) = yaml.safe_load((EXAMPLE / "envoy.yaml").read_text())["static_resources"]["listeners"]
    return listener, listener["filter_chains"][0]["filters"][0]["typed_config"]


def filters():
    """The example's HTTP filters."""
    return {one["name"].rpartition(".")[2]: one["typed_config"] for one in manager()[1]["http_filters"]}


def removed(config):
    """The headers that a connection manager takes out before any filter."""
    (early,) = config["early_header_mutation_extensions"]
    return {mutation["remove"] for mutation in early["typed_config"]["mutations"]}


def test_the_copy_of_the_script_is_one():
    assert (ROOT / "components/gateway/usage.lua").read_text() == LUA


def test_envoy_gateway_reads_the_script_from_the_key_that_it_looks_for():
    spec = one(ENVOY_GATEWAY, "EnvoyExtensionPolicy")["spec"]
    (script,) = spec["lua"]
    assert one(ENVOY_GATEWAY, "ConfigMap", script["valueRef"]["name"])["data"] == {"lua": LUA}


def test_envoy_gateway_says_what_the_example_says():
    example, (listener, managing) = filters(), manager()
    (processor,) = one(ENVOY_GATEWAY, "EnvoyExtensionPolicy")["spec"]["extProc"]
    assert processor["failOpen"] is example["ext_proc"]["failure_mode_allow"] is True
    assert float(processor["messageTimeout"].removesuffix("ms")) / 1000 == float(
        example["ext_proc"]["message_timeout"].removesuffix("s")
    )
    assert processor["processingMode"] == {"request": {"body": "BufferedPartial"}}
    assert example["ext_proc"]["processing_mode"] == {
        "request_header_mode": "SEND",
        "request_body_mode": "BUFFERED_PARTIAL",
        "response_header_mode": "SKIP",
    }
    # Envoy Gateway runs Lua before external processors where nothing is said.
    assert list(example) == ["ext_proc", "lua", "router"]
    proxy = one(ENVOY_GATEWAY, "EnvoyProxy")["spec"]
    assert proxy["filterOrder"] == [{"name": "envoy.filters.http.lua", "after": "envoy.filters.http.ext_proc"}]
    (logging,) = proxy["telemetry"]["accessLog"]["settings"]
    (sink,) = (one["als"] for one in logging["sinks"] if one["type"] == "ALS")
    (logged,) = (one["typed_config"] for one in managing["access_log"])
    assert sink["http"]["requestHeaders"] == logged["additional_request_headers_to_log"] == [REQUEST_HEADER]
    assert sink["backendRefs"] == processor["backendRefs"]
    clients = one(ENVOY_GATEWAY, "ClientTrafficPolicy")["spec"]
    assert (
        int(clients["connection"]["bufferLimit"].removesuffix("Mi")) << 20
        == (listener["per_connection_buffer_limit_bytes"])
    )
    assert set(clients["headers"]["earlyRequestHeaders"]["remove"]) == removed(managing) | {"x-tenant-id"}
    assert removed(managing) == OURS


def test_everything_of_envoy_gateway_is_of_the_gateway_that_routes_name():
    gateway = one(ENVOY_GATEWAY, "Gateway")
    parameters = gateway["spec"]["infrastructure"]["parametersRef"]
    assert one(ENVOY_GATEWAY, parameters["kind"])["metadata"]["name"] == parameters["name"]
    for policy in of(ENVOY_GATEWAY, "EnvoyExtensionPolicy", "ClientTrafficPolicy"):
        assert [target["name"] for target in policy["spec"]["targetRefs"]] == [gateway["metadata"]["name"]]
    assert one(ENVOY_GATEWAY, "HTTPRoute")["spec"]["parentRefs"] == [{"name": gateway["metadata"]["name"]}]


def test_istio_says_what_the_example_says():
    example, (listener, managing) = filters(), manager()
    spec = one(ISTIO, "EnvoyFilter")["spec"]
    assert [target["name"] for target in spec["targetRefs"]] == [one(ISTIO, "Gateway")["metadata"]["name"]]
    limit, merged, processor, script = (patch["patch"]["value"] for patch in spec["configPatches"])
    assert limit == {"per_connection_buffer_limit_bytes": listener["per_connection_buffer_limit_bytes"]}
    assert removed(merged["typed_config"]) == OURS | {"x-tenant-id"}
    (logged,), (expected,) = merged["typed_config"]["access_log"], managing["access_log"]
    expected["typed_config"]["common_config"]["grpc_service"] = processor["typed_config"]["grpc_service"]
    assert logged == expected
    assert processor["typed_config"] == {
        **example["ext_proc"],
        "grpc_service": processor["typed_config"]["grpc_service"],
    }
    assert script["typed_config"]["default_source_code"] == {"inline_string": LUA}
    # The route of an InferencePool has a configuration for filters of that name.
    assert not {processor["name"], script["name"]} & {"envoy.filters.http.ext_proc", "envoy.filters.http.lua"}
    assert not [found for found in of(ISTIO, "ConfigMap") if "lua" in found["data"]]


@BOTH
def test_a_scheduler_listens_where_its_service_leads(folder, monkeypatch):
    deployment = deployed(folder, "scheduler")
    for key, value in environment(folder, deployment["template"]).items():
        monkeypatch.setenv(key, value)
    settings = SchedulerSettings()
    assert (settings.backend, settings.ext_proc_usage) == ("none", "always")
    assert settings.ext_proc_budget_field == "thinking_token_budget"  # vLLM's
    (container,) = deployment["template"]["spec"]["containers"]
    assert {"name": "gateway", "containerPort": PORT} in container["ports"]
    assert settings.ext_proc_listen == f"0.0.0.0:{PORT}"
    (port,) = one(folder, "Service", "scheduler-gateway")["spec"]["ports"]
    assert (port["port"], port["targetPort"], port["appProtocol"]) == (PORT, "gateway", "kubernetes.io/h2c")
    # Several, since what the access log tells gets to the one that decides.
    assert deployment["replicas"] == 2
    (store,) = (each for each in of(folder, "Service") if each["metadata"]["name"] == "valkey")
    assert settings.shared_budget_url.get_secret_value() == f"redis://valkey:{store['spec']['ports'][0]['port']}"
    assert (settings.budget_per, settings.objective) == ("query", "")  # which share nothing by themselves


@BOTH
def test_only_gateways_reach_the_port_that_settles(folder):
    allowed = [
        peer
        for policy in of(folder, "NetworkPolicy")
        for rule in policy["spec"].get("ingress", ())
        for peer in rule.get("from", [{}])
        if {"port": PORT} in rule["ports"]
    ]
    keys = [sorted(peer["podSelector"]["matchLabels"]) for peer in allowed]
    assert keys == [
        ["gateway.envoyproxy.io/owning-gateway-name", "gateway.envoyproxy.io/owning-gateway-namespace"],
        ["gateway.networking.k8s.io/gateway-name"],
    ]
    assert {one(folder, "Gateway")["metadata"]["name"]} == {
        value
        for peer in allowed
        for key, value in peer["podSelector"]["matchLabels"].items()
        if key.endswith("gateway-name")
    }


def own_overlay(folder, base, *components):
    """An overlay of one's own in ``folder``: ``base`` with components of ours, by their names, or of one's own."""
    paths = []
    for at, component in enumerate(components):
        if (ROOT / "components" / component.partition("\n")[0]).is_dir():
            paths.append(os.path.relpath(ROOT / "components" / component, folder))
        else:
            (folder / f"mine{at}").mkdir()
            (folder / f"mine{at}/kustomization.yaml").write_text(component)
            paths.append(f"mine{at}")
    own = {"resources": [os.path.relpath(base, folder)], "components": paths, "namespace": "predictive-scheduling"}
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(own))
    return folder


@pytest.mark.parametrize("gateway", ["gateway-envoy", "gateway-istio"])
def test_without_a_store_there_is_one_scheduler_and_with_it_as_many_as_there_is_load_for(gateway, tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "many").mkdir()
    one_alone = own_overlay(tmp_path / "one", ROOT / "base", "vllm", gateway)
    assert deployed(one_alone, "scheduler")["replicas"] == 1
    assert "SCHEDULER_SHARED_BUDGET_URL" not in environment(one_alone, deployed(one_alone, "scheduler")["template"])
    scaled = own_overlay(tmp_path / "many", ROOT / "base", "vllm", gateway, "store", "autoscaling")
    assert "replicas" not in deployed(scaled, "scheduler")
    assert one(scaled, "ScaledObject", "scheduler")["spec"]["maxReplicaCount"] > 1
    assert "SCHEDULER_SHARED_BUDGET_URL" in environment(scaled, deployed(scaled, "scheduler")["template"])


def test_several_schedulers_as_the_page_says(tmp_path):
    page = (ROOT.parent / "docs/gateway.md").read_text()
    (component,) = re.findall(r"^```yaml\n(# several/.*?)^```", page, re.DOTALL | re.MULTILINE)
    folder = own_overlay(tmp_path, ENVOY_GATEWAY, component)
    deployment = deployed(folder, "scheduler")
    assert deployment["replicas"] == 3
    assert environment(folder, deployment["template"])["SCHEDULER_EXT_PROC_USAGE"] == "auto"
    spec = one(folder, "EnvoyExtensionPolicy")["spec"]
    assert "lua" not in spec
    assert spec["extProc"][0]["processingMode"] == {
        "request": {"body": "BufferedPartial"},
        "response": {"body": "Streamed"},
    }


def test_the_inference_pool_is_the_servers_own_pods():
    pool, route = yaml.safe_load_all((ROOT / "examples/inference-extension.yaml").read_text())
    server = deployed(ENVOY_GATEWAY, "llm")
    assert pool["spec"]["selector"]["matchLabels"].items() <= server["template"]["metadata"]["labels"].items()
    (container,) = server["template"]["spec"]["containers"]
    assert pool["spec"]["targetPorts"] == [{"number": container["ports"][0]["containerPort"]}]
    (replaced,) = of(ENVOY_GATEWAY, "HTTPRoute")
    assert route["metadata"]["name"] == replaced["metadata"]["name"]
    (rule,) = route["spec"]["rules"]
    assert rule["backendRefs"] == [{"group": "inference.networking.k8s.io", "kind": "InferencePool", "name": "llm"}]
