"""The Kubernetes manifests: rendered, valid, hardened, and with nothing in them that refers to what is not there."""

import json
import os
import re
from functools import cache

import jsonschema
import kubernetes_validate
import pytest
import yaml
from typer.main import get_command

from exporters.measure.questions import Shard
from predictive_scheduling_cli.main import app
from predictor_service.settings import SHIPPED_MODELS, PredictorSettings
from scheduler_service.settings import SchedulerSettings
from tests.builders.manifests import ROOT, deployed, environment, of, rendered
from tests.programs import needs

KUBERNETES = ("1.33", kubernetes_validate.latest_version())
FOLDERS = sorted(path.parent for kind in ("overlays", "jobs") for path in (ROOT / kind).glob("*/kustomization.yaml"))
OVERLAYS = [folder for folder in FOLDERS if folder.parent.name == "overlays"]
SERVICES = {"predictor": PredictorSettings, "scheduler": SchedulerSettings}

pytestmark = needs("kubectl")


def named(folders):
    return pytest.mark.parametrize("folder", folders, ids=lambda folder: folder.name)


def pods(folder):
    """Every pod template: its owner's name and kind, the template."""
    return [
        (document["metadata"]["name"], document["kind"], document["spec"]["template"])
        for document in of(folder, "Deployment", "StatefulSet", "Job")
    ] + [
        (document["metadata"]["name"], "Job", document["spec"]["jobTemplate"]["spec"]["template"])
        for document in of(folder, "CronJob")
    ]


def schema(document):
    """The schema of an operator's resource; its spec is checked against it."""
    known = yaml.safe_load((ROOT / "schemas.yaml").read_text())
    found = known["resources"].get(f"{document['apiVersion']}/{document['kind']}")
    return None if found is None else {**found, "definitions": known["definitions"]}


def check(document):
    """Raise where a document is not valid. Most stand in several overlays; each is looked at once."""
    _check(json.dumps(document, sort_keys=True))


@cache
def _check(text):
    document = json.loads(text)
    if (operators := schema(document)) is not None:
        jsonschema.validate(document["spec"], operators)
    else:
        for version in KUBERNETES:
            kubernetes_validate.validate(document, version, strict=True)


@named(FOLDERS)
def test_everything_is_valid(folder):
    for document in rendered(folder):
        try:
            check(document)
        except Exception as error:
            pytest.fail(f"{document['kind']} {document['metadata']['name']}: {error}")


def test_the_examples_are_valid():
    examples = list((ROOT / "examples").glob("*.yaml"))
    assert examples
    for path in examples:
        for document in yaml.safe_load_all(path.read_text()):
            check(document)


def test_a_typing_mistake_is_found():
    deployment = next(document for document in rendered(ROOT / "overlays/cpu") if document["kind"] == "Deployment")
    broken = json.loads(json.dumps(deployment).replace('"replicas"', '"replica"'))
    with pytest.raises(kubernetes_validate.ValidationError):
        check(broken)
    scaled = of(ROOT / "overlays/gpu", "ScaledObject")[0]
    broken = json.loads(json.dumps(scaled).replace('"minReplicaCount"', '"minReplicas"'))
    with pytest.raises(jsonschema.ValidationError):
        check(broken)


@named(FOLDERS)
def test_every_container_is_hardened_and_says_what_it_needs(folder):
    for name, kind, template in pods(folder):
        spec = template["spec"]
        assert spec["automountServiceAccountToken"] is False, name
        assert spec["securityContext"]["runAsNonRoot"] is True, name
        assert spec["securityContext"]["runAsUser"] > 10_000, name
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not any(spec.get(key) for key in ("hostNetwork", "hostPID", "hostIPC")), name
        for container in [*spec.get("initContainers", ()), *spec["containers"]]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False, name
            assert security["readOnlyRootFilesystem"] is True, name
            assert security["capabilities"] == {"drop": ["ALL"]}, name
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), name
            assert "memory" in container["resources"]["limits"], name
            # A CPU limit would throttle what is paid for; exception to the linters, for all containers.
            assert "cpu" not in container["resources"]["limits"], name
            assert re.fullmatch(r"[\w.-]+\.[\w.-]+/[\w./-]+:v?\d[\w.-]*", container["image"]), container["image"]
            goes_on = kind != "Job" and container in spec["containers"]
            assert not goes_on or {"readinessProbe", "livenessProbe"} <= container.keys(), name


@named(FOLDERS)
def test_everything_that_is_referred_to_is_there(folder):
    names = {(document["kind"], document["metadata"]["name"]) for document in rendered(folder)}
    secrets = {document["spec"]["secretName"] for document in of(folder, "Certificate")}
    for owner, _, template in pods(folder):
        spec = template["spec"]
        if "serviceAccountName" in spec:
            assert ("ServiceAccount", spec["serviceAccountName"]) in names, owner
        volumes = {volume["name"]: volume for volume in spec.get("volumes", ())}
        for volume in volumes.values():
            if "configMap" in volume:
                assert ("ConfigMap", volume["configMap"]["name"]) in names, owner
            if "secret" in volume:
                assert volume["secret"]["secretName"] in secrets, owner
            if "persistentVolumeClaim" in volume:
                assert ("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"]) in names, owner
        for container in [*spec.get("initContainers", ()), *spec["containers"]]:
            assert {mount["name"] for mount in container.get("volumeMounts", ())} <= volumes.keys(), owner
            for source in container.get("envFrom", ()):
                assert ("ConfigMap", source["configMapRef"]["name"]) in names, owner
            ports = {port["name"] for port in container.get("ports", ())}
            numbers = {port["containerPort"] for port in container.get("ports", ())}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                wanted = container.get(probe, {})
                if "grpc" in wanted:
                    assert wanted["grpc"]["port"] in numbers, f"{owner}: {probe}"
                for action in ("httpGet", "tcpSocket"):
                    assert wanted.get(action, {}).get("port", "") in {*ports, *numbers, ""}, f"{owner}: {probe}"
    for budget in of(folder, "PodDisruptionBudget"):
        assert selected(folder, budget["spec"]["selector"]["matchLabels"]), budget["metadata"]["name"]
    for scaled in of(folder, "ScaledObject"):
        assert ("Deployment", scaled["spec"]["scaleTargetRef"]["name"]) in names
    for issued in of(folder, "Certificate"):
        assert (issued["spec"]["issuerRef"]["kind"], issued["spec"]["issuerRef"]["name"]) in names
    for route in yaml.safe_load_all((ROOT / "examples/grpcroute.yaml").read_text()):
        for rule in route["spec"]["rules"]:
            for backend in rule["backendRefs"]:
                assert folder not in OVERLAYS or ("Service", backend["name"]) in names


def selected(folder, labels):
    """The pods that labels select."""
    return [template for _, _, template in pods(folder) if labels.items() <= template["metadata"]["labels"].items()]


def expression_selects(selector, labels):
    """Whether a label selector with expressions selects labels."""
    plain = selector.get("matchLabels", {}).items() <= labels.items()
    return plain and all(labels.get(one["key"]) in one["values"] for one in selector.get("matchExpressions", ()))


def ports_of(template):
    return {port.get("name"): port["containerPort"] for one in template["spec"]["containers"] for port in one["ports"]}


@named(OVERLAYS)
def test_services_monitors_and_policies_name_ports_that_pods_have(folder):
    for service in of(folder, "Service"):
        found = selected(folder, service["spec"]["selector"])
        assert found, service["metadata"]["name"]
        for port in service["spec"]["ports"]:
            assert all(port["targetPort"] in ports_of(template) for template in found), service["metadata"]["name"]
    for monitor in of(folder, "PodMonitor"):
        chosen = [
            template
            for _, _, template in pods(folder)
            if expression_selects(monitor["spec"]["selector"], template["metadata"]["labels"])
        ]
        assert chosen
        for endpoint in monitor["spec"]["podMetricsEndpoints"]:
            assert all(endpoint["port"] in ports_of(template) for template in chosen)
    known = {port for _, _, template in pods(folder) for port in ports_of(template).values()} | {53, 443}
    optional = {4317, 6379, 8080, 50060, 50070}  # of components that an overlay may leave out
    optional |= {80, 15012}  # of a gateway's pod and its controller, which are not in the manifests
    for policy in of(folder, "NetworkPolicy"):
        for rule in [*policy["spec"].get("ingress", ()), *policy["spec"].get("egress", ())]:
            assert {port["port"] for port in rule["ports"]} <= known | optional, policy["metadata"]["name"]


def own_overlay(folder, *components, under="overlays/gpu", **mine):
    """One's own overlay in ``folder``: what is ``under`` it, components that this has not, and one of one's own."""
    paths = {"resources": [under], "components": [f"components/{one}" for one in components]}
    own = {kind: [os.path.relpath(ROOT / path, folder) for path in given] for kind, given in paths.items()}
    if mine:
        (folder / "mine").mkdir()
        header = {"apiVersion": "kustomize.config.k8s.io/v1alpha1", "kind": "Component"}
        (folder / "mine/kustomization.yaml").write_text(yaml.safe_dump({**header, **mine}))
        own["components"].append("mine")
    own["namespace"] = "predictive-scheduling"
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(own))
    for document in rendered(folder):
        check(document)
    return folder


def test_tensorrt_is_added_to_a_predictor_on_a_gpu(tmp_path):
    """No overlay has it, since its image fetches TensorRT from NVIDIA; this is how one's own overlay would."""
    own_overlay(tmp_path, "tensorrt")
    template = predictor_on(tmp_path)["template"]
    (container,) = template["spec"]["containers"]
    assert container["image"].rpartition(":")[0].endswith("/predictor-tensorrt")
    settings = environment(tmp_path, template)
    assert settings["PREDICTOR_PROVIDER"] == "tensorrt"
    assert settings["PREDICTOR_ENGINES"] in {mount["mountPath"] for mount in container["volumeMounts"]}


def test_predictors_that_make_themselves_write_where_predictors_read(tmp_path):
    """No overlay has it, since whose prompts may be sampled is the operator's to say."""
    own_overlay(tmp_path, "model-volume", "learn", "vllm", under="overlays/cpu")
    test_every_container_is_hardened_and_says_what_it_needs(tmp_path)
    test_everything_that_is_referred_to_is_there(tmp_path)
    (job,) = of(tmp_path, "CronJob")
    assert job["spec"]["concurrencyPolicy"] == "Forbid"
    template = job["spec"]["jobTemplate"]["spec"]["template"]
    (container,) = template["spec"]["containers"]
    command, *options = container["args"]
    known = {name for option in get_command(app).commands[command].params for name in option.opts}
    assert {option.partition("=")[0] for option in options} <= known
    claims = {volume["name"]: volume.get("persistentVolumeClaim") for volume in template["spec"]["volumes"]}
    served = predictor_on(tmp_path)["template"]
    (mounted,) = [one["persistentVolumeClaim"] for one in served["spec"]["volumes"] if one["name"] == "models"]
    assert claims["models"]["claimName"] == mounted["claimName"]
    claim = next(
        one for one in of(tmp_path, "PersistentVolumeClaim") if one["metadata"]["name"] == mounted["claimName"]
    )
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    settings = environment(tmp_path, served)
    assert (settings["PREDICTOR_DEFAULT_MODEL"], settings["PREDICTOR_DEFAULT_MAY_BE_MISSING"]) == ("learned", "true")
    assert settings["PREDICTOR_CANARY"] == "learned=learned-canary:0.1"
    assert allows(tmp_path, "learn", "llm", 8080)
    assert not allows(tmp_path, "learn", "predictor", 50052)


def test_budgets_and_replicas_of_the_llm_server_follow_the_load(tmp_path, monkeypatch):
    """No overlay has it, since an objective is the operator's own."""
    own_overlay(tmp_path, "vllm", "objectives", under="base")
    (deployment,) = [one for one in of(tmp_path, "Deployment") if one["metadata"]["name"] == "scheduler"]
    for name, value in environment(tmp_path, deployment["spec"]["template"]).items():
        monkeypatch.setenv(name, value)
    settings = SchedulerSettings()
    assert [str(one) for one in settings.objectives] == ["total p99 60s"]
    (scaled,) = [one for one in of(tmp_path, "ScaledObject") if one["metadata"]["name"] == "llm"]
    (llm,) = [one for one in of(tmp_path, "Deployment") if one["metadata"]["name"] == "llm"]
    assert "replicas" not in llm["spec"]
    known = re.findall(r"^\| `(\w+)`", (ROOT.parent / "docs/metrics.md").read_text(), re.MULTILINE)
    for trigger in scaled["spec"]["triggers"]:
        assert re.search(r"predictive_scheduling_\w+", trigger["metadata"]["query"]).group() in known


def test_a_predictor_on_a_gpu_asks_for_one_and_needs_no_second_one_to_be_exchanged():
    spec = predictor_on(ROOT / "overlays/gpu")
    (container,) = spec["template"]["spec"]["containers"]
    assert container["image"].rpartition(":")[0].endswith("/predictor-gpu")
    assert container["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert spec["strategy"]["rollingUpdate"] == {"maxUnavailable": 1, "maxSurge": 0}


def predictor_on(folder):
    """The spec of the predictor's Deployment."""
    return deployed(folder, "predictor")


def flags(container):
    """A container's arguments of the form --name=value."""
    given = [argument.partition("=") for argument in container["args"] if argument.startswith("--")]
    return {name: value for name, _, value in given}


def allows(folder, sender, receiver, port):
    """Whether network policies let a pod of one name reach another's port, on both sides."""

    def lets(policy, pod, direction, other):
        spec = policy["spec"]
        chosen = expression_selects(spec["podSelector"], {"app.kubernetes.io/name": pod})
        peers = "to" if direction == "egress" else "from"
        return chosen and any(
            {"port": port} in rule["ports"]
            and any(
                "podSelector" in peer
                and "namespaceSelector" not in peer
                and expression_selects(peer["podSelector"], {"app.kubernetes.io/name": other})
                for peer in rule.get(peers, ())
            )
            for rule in spec.get(direction, ())
        )

    policies = of(folder, "NetworkPolicy")
    return any(lets(one, sender, "egress", receiver) for one in policies) and any(
        lets(one, receiver, "ingress", sender) for one in policies
    )


def test_an_engine_that_sends_states_may_reach_schedulers_at_the_port_where_they_listen(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT.parent / "engines/vllm")
    from predictive_scheduling_vllm.destinations import Allowed, parse_address

    folder = own_overlay(
        tmp_path, "vllm-states",
        configMapGenerator=[{"name": "llm", "behavior": "merge", "literals": ["PODS_NETWORK=10.42.0.0/16"]}],
    )  # fmt: skip
    spec = deployed(folder, "llm")["template"]["spec"]
    (engine,) = spec["containers"]
    (copying,) = spec["initContainers"]
    assert copying["image"].rpartition(":")[0].endswith("/vllm-connector")
    assert {mount["mountPath"]: mount["name"] for mount in copying["volumeMounts"]} == {"/target": "connector"}
    assert {"name": "PYTHONPATH", "value": "/connector"} in engine["env"]
    values = environment(folder, {"spec": spec})
    given = {
        name: re.sub(r"\$\((\w+)\)", lambda found: values[found[1]], value) for name, value in flags(engine).items()
    }
    kept = json.loads(given["--speculative-config"])
    assert kept["draft_model_config"]["hf_config"]["eagle_aux_hidden_state_layer_ids"] == [16]
    destinations = json.loads(given["--kv-transfer-config"])["kv_connector_extra_config"]["destinations"]
    assert destinations == ["tcp://10.42.0.0/16:50070"]

    template = deployed(folder, "scheduler")["template"]
    (scheduler,) = template["spec"]["containers"]
    assert ports_of(template)["reports"] == 50070
    assert [one["name"] for one in scheduler["env"]] == ["POD_IP", "SCHEDULER_REPORTS_ADDRESS"]  # it refers back
    told = scheduler["env"][1]["value"].replace("$(POD_IP)", "10.42.0.9")
    for key, value in {**environment(folder, template), "SCHEDULER_REPORTS_ADDRESS": told}.items():
        monkeypatch.setenv(key, value)
    settings = SchedulerSettings()
    assert settings.reports_listen == "tcp://0.0.0.0:50070"
    assert parse_address(settings.reports_address) in Allowed(destinations)

    assert allows(folder, "llm", "scheduler", 50070)
    assert not allows(folder, "llm", "scheduler", 50051)
    assert not allows(folder, "llm", "predictor", 50052)
    assert not allows(folder, "predictor", "scheduler", 50070)


def test_a_vllm_has_time_to_end_what_runs():
    spec = deployed(ROOT / "overlays/gpu", "llm")["template"]["spec"]
    (engine,) = spec["containers"]
    assert "--kv-transfer-config" not in flags(engine)  # the plain one keeps no states
    ending = engine["lifecycle"]["preStop"]["sleep"]["seconds"] + int(flags(engine)["--shutdown-timeout"])
    assert spec["terminationGracePeriodSeconds"] >= ending + 4


@named(OVERLAYS)
def test_selectors_of_deployments_do_not_overlap(folder):
    for deployment in of(folder, "Deployment"):
        assert len(selected(folder, deployment["spec"]["selector"]["matchLabels"])) == 1, deployment["metadata"]["name"]


@named(OVERLAYS)
def test_the_services_understand_their_settings_and_drain_in_time(folder, monkeypatch):
    for name, _, template in pods(folder):
        service = template["metadata"]["labels"]["app.kubernetes.io/name"]
        if service not in SERVICES:
            continue
        given = environment(folder, template)
        with monkeypatch.context() as patch:
            for key, value in given.items():
                patch.setenv(key, value)
            settings = SERVICES[service]()
        prefix = f"{service.upper()}_"
        fields = {prefix + field.upper() for field in SERVICES[service].model_fields}
        unknown = {key for key in given if not key.startswith("OTEL_")} - fields
        assert not unknown, f"{name}: {unknown}"
        container = template["spec"]["containers"][0]
        pause = container["lifecycle"]["preStop"]["sleep"]["seconds"]
        ending = pause + settings.lame_duck_seconds + settings.drain_seconds
        assert template["spec"]["terminationGracePeriodSeconds"] >= ending + 4, name
        ports = ports_of(template)
        assert int(settings.listen.rpartition(":")[2]) == ports["grpc"]
        assert int(settings.metrics_listen.rpartition(":")[2]) == ports["metrics"]
        if settings.tls_cert:  # probes speak no TLS
            assert (
                int(settings.health_listen.rpartition(":")[2])
                == ports["health"]
                == container["livenessProbe"]["grpc"]["port"]
            )
        if service == "predictor" and settings.models == SHIPPED_MODELS:
            assert (SHIPPED_MODELS / settings.default_model).is_dir()


@named([folder for folder in FOLDERS if folder.parent.name == "jobs"])
def test_jobs_cut_the_questions_into_as_many_parts_as_they_have_pods(folder, monkeypatch):
    (job,) = of(folder, "Job")
    container = job["spec"]["template"]["spec"]["containers"][0]
    given = {one["name"]: one["value"] for one in container["env"]}
    assert int(given["SHARD_COUNT"]) == job["spec"]["completions"]
    shard = Shard.from_environment({**given, "JOB_COMPLETION_INDEX": "7"})
    assert (shard.index, shard.count) == (7, job["spec"]["completions"])
    command = get_command(app).commands[container["args"][0]]
    options = {option for parameter in command.params for option in parameter.opts}
    assert {argument.partition("=")[0] for argument in container["args"][1:]} <= options
