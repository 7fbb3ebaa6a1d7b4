"""What an operator applies: every file in `cluster/` says what our code, Ray and the formats it is written in know.

No Docker and no Kubernetes here: the files are parsed and checked field by field, and not applied.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import typer
import yaml
from ray.scripts.scripts import cli as ray_command

import agentspan
from agentspan.actors.environment import AUTH_VARIABLES, SETTINGS
from agentspan.cli.main import app
from agentspan.config import Settings

ROOT = Path(__file__).parents[3]
CLUSTER = ROOT / "cluster"
FILES = sorted(path for path in CLUSTER.iterdir() if path.name != ".env")
OURS = {f"AGENTSPAN_{name.upper()}" for name in Settings.model_fields}
RAY_AUTH = {"RAY_AUTH_MODE": "token"}
HEAD_OF_RAY_UP = {"RAY_HEAD_IP"}  # Ray's launcher sets it for the workers' commands.
IMAGE = f"agentspan:{agentspan.__version__}"


def read(name: str) -> Any:
    return yaml.safe_load((CLUSTER / name).read_text())


def env_file(name: str) -> dict[str, str]:
    lines = [line for line in (CLUSTER / name).read_text().splitlines() if line and not line.startswith("#")]
    return dict(line.split("=", 1) for line in lines)


def strings(tree: Any) -> Iterator[str]:
    """Every string in a document, also in keys."""
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, dict):
        for key, value in tree.items():
            yield from strings(key)
            yield from strings(value)
    elif isinstance(tree, list):
        for one in tree:
            yield from strings(one)


def allowed(tree: dict[str, Any], fields: set[str], required: set[str], where: str) -> None:
    assert required <= set(tree), f"{where} lacks {required - set(tree)}"
    assert set(tree) <= fields | required, f"{where} has unknown {set(tree) - fields - required}"


# --- commands and variables, in all files ------------------------------------------------------------------------


def commands(name: str) -> list[list[str]]:
    """The command lines of a file that call Ray or us."""
    lines = [line.strip() for text in strings(read(name)) for line in re.split(r"[;\n]|&&|\|\||(?<!&)&(?!&)", text)]
    found = [re.search(r"(?:^|[\s/])((?:ray|agent-span) [a-z].*)$", line) for line in lines]
    return [shlex.split(match.group(1)) for match in found if match is not None]


@pytest.mark.parametrize("name", ["compose.yaml", "kuberay.yaml", "ray-up.yaml"])
def test_every_command_and_option_exists(name: str) -> None:
    ours = typer.main.get_command(app)
    calls = [line for line in commands(name) if line[0] == "agent-span"]
    assert ["agent-span", "server", "start"] in [line[:3] for line in calls]
    for words in commands(name):
        command: Any = ours if words[0] == "agent-span" else ray_command
        rest = words[1:]
        while rest and hasattr(command, "commands"):
            command, rest = command.commands[rest[0]], rest[1:]
        options = {option for parameter in command.params for option in parameter.opts}
        for word in rest:
            if word.startswith("-"):
                assert word.partition("=")[0] in options, f"{words}: {word}"


def test_the_exec_form_of_a_command_is_checked_too() -> None:
    words = read("compose.yaml")["services"]["worker"]["command"]
    options = {option for parameter in ray_command.commands["start"].params for option in parameter.opts}
    assert words[:2] == ["ray", "start"]
    assert {word.partition("=")[0] for word in words[2:]} <= options


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_variable_is_one_that_somebody_reads(path: Path) -> None:
    named = set(re.findall(r"\b(?:AGENTSPAN|RAY)_[A-Za-z_]+[A-Za-z]\b", path.read_text()))
    known = OURS | set(SETTINGS) | set(AUTH_VARIABLES) | HEAD_OF_RAY_UP
    assert named <= known


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_versions_are_those_we_pin(path: Path) -> None:
    text = path.read_text()
    pinned = re.search(r"^ray==(\S+)", (ROOT / "requirements/dev.txt").read_text(), re.M)
    assert pinned is not None
    assert pinned.group(1) == version("ray")
    for found in re.findall(r"rayproject/ray:([\d.]+)|ray(?:\[[\w,]+\])?==([\d.]+)|rayVersion: \"([\d.]+)\"", text):
        assert "".join(found) == pinned.group(1)
    for found in re.findall(r"agentspan:(\d[\w.]*)", text):
        assert found == agentspan.__version__


def test_no_secret_is_in_a_file() -> None:
    assert env_file("secrets.env.example") == {
        "RAY_AUTH_TOKEN": "",
        "POSTGRES_PASSWORD": "",
        "AGENTSPAN_STORE": "",
        "OPENAI_API_KEY": "",
    }
    assert "cluster/.env" in (ROOT / ".gitignore").read_text().splitlines()
    for path in FILES:
        assert not re.search(r"\b[0-9a-f]{32,}\b|sk-[A-Za-z0-9]{8}", path.read_text()), path.name


def test_nodes_run_ray_as_a_server_of_ours_would() -> None:
    assert env_file("ray.env") == {**RAY_AUTH, **SETTINGS}


# --- compose ------------------------------------------------------------------------------------------------------

SERVICE = {"image", "build", "restart", "init", "shm_size", "ulimits", "env_file", "environment", "command", "ports"}
SERVICE |= {"volumes", "depends_on", "healthcheck", "deploy"}


def test_compose_has_only_fields_of_the_compose_specification() -> None:
    compose = read("compose.yaml")
    allowed(compose, {"name", "services", "volumes", "x-node"}, {"services"}, "compose.yaml")
    for name, service in compose["services"].items():
        allowed(service, SERVICE, {"image"}, name)
        for needed in service.get("depends_on", ()):
            assert needed in compose["services"]
        for mount in service.get("volumes", ()):
            assert mount.partition(":")[0] in compose["volumes"]
    assert compose["services"]["head"]["depends_on"]["postgres"]["condition"] == "service_healthy"


def test_compose_publishes_nothing_beyond_loopback() -> None:
    ports = [port for service in read("compose.yaml")["services"].values() for port in service.get("ports", ())]
    assert ports == ["127.0.0.1:10001:10001"]


def test_every_compose_node_has_token_settings_and_image_and_the_head_alone_the_store() -> None:
    services = read("compose.yaml")["services"]
    for name in ("head", "worker"):
        service = services[name]
        assert service["image"] == IMAGE
        assert service["env_file"] == ["ray.env"]
        assert service["environment"]["RAY_AUTH_TOKEN"].startswith("${RAY_AUTH_TOKEN:?")
        assert (CLUSTER / service["build"]["context"]).resolve() == ROOT
        assert (ROOT / service["build"]["dockerfile"]).exists()
    assert "AGENTSPAN_STORE" not in services["worker"]["environment"]
    assert services["head"]["environment"]["AGENTSPAN_STORE"].startswith("postgresql://agentspan:${POSTGRES_PASSWORD:?")


def test_every_variable_that_compose_asks_for_is_in_the_example() -> None:
    asked = set(re.findall(r"\$\{(\w+)", (CLUSTER / "compose.yaml").read_text()))
    assert asked <= set(env_file("secrets.env.example"))


# --- ray up -------------------------------------------------------------------------------------------------------


def test_ray_up_takes_its_file() -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler/ray-schema.json").read_text())
    config = read("ray-up.yaml")
    jsonschema.validate(config, schema)
    assert config["max_workers"] == len(config["provider"]["worker_ips"])


def test_ray_up_sends_files_that_are_there() -> None:
    for target, source in read("ray-up.yaml")["file_mounts"].items():
        assert target.startswith("~/agentspan-source/")
        assert source == ".env" or (CLUSTER / source).exists()


def test_ray_up_starts_every_node_with_settings_and_secrets() -> None:
    config = read("ray-up.yaml")
    starts = [*config["head_start_ray_commands"], *config["worker_start_ray_commands"]]
    for line in starts:
        if " start" in line:
            assert line.startswith("set -a; . ~/agentspan-source/ray.env; . ~/agentspan-source/secrets.env;")


# --- KubeRay ------------------------------------------------------------------------------------------------------

# The parts of the RayCluster definition (ray.io/v1, KubeRay 1.5) and of a pod that the file uses.
SPEC = {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs", "gcsFaultToleranceOptions"}
HEAD_GROUP = {"serviceType", "rayStartParams", "template", "enableIngress", "headService"}
WORKER_GROUP = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template", "scaleStrategy"}
POD = {"containers", "volumes", "securityContext", "serviceAccountName", "nodeSelector", "tolerations"}
CONTAINER = {"name", "image", "command", "args", "env", "ports", "volumeMounts", "resources"}


def test_kuberay_has_only_fields_of_a_raycluster() -> None:
    cluster = read("kuberay.yaml")
    allowed(cluster, set(), {"apiVersion", "kind", "metadata", "spec"}, "kuberay.yaml")
    assert (cluster["apiVersion"], cluster["kind"]) == ("ray.io/v1", "RayCluster")
    assert cluster["metadata"]["annotations"] == {"ray.io/overwrite-container-cmd": "true"}
    spec = cluster["spec"]
    allowed(spec, SPEC, {"rayVersion", "headGroupSpec", "workerGroupSpecs"}, "spec")
    assert spec["authOptions"] == {"mode": "token"}
    allowed(spec["headGroupSpec"], HEAD_GROUP, {"rayStartParams", "template"}, "headGroupSpec")
    for group in spec["workerGroupSpecs"]:
        allowed(group, WORKER_GROUP, {"groupName", "rayStartParams", "template"}, "workerGroupSpecs")
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]


def pods() -> dict[str, dict[str, Any]]:
    spec = read("kuberay.yaml")["spec"]
    return {
        "head": spec["headGroupSpec"]["template"]["spec"],
        **{group["groupName"]: group["template"]["spec"] for group in spec["workerGroupSpecs"]},
    }


def test_kuberay_pods_are_whole() -> None:
    for name, pod in pods().items():
        allowed(pod, POD, {"containers"}, name)
        volumes = {volume["name"] for volume in pod.get("volumes", ())}
        for container in pod["containers"]:
            allowed(container, CONTAINER, {"name", "image", "command", "args", "env", "resources"}, name)
            assert container["image"] == IMAGE
            assert {mount["name"] for mount in container.get("volumeMounts", ())} <= volumes
            # Without the annotation's command, KubeRay's own would be lost.
            assert "$KUBERAY_GEN_RAY_START_CMD" in container["args"][0]
            variables = {one["name"]: one.get("value") for one in container["env"]}
            assert SETTINGS.items() <= variables.items()
            assert not any(word in one for one in variables for word in ("TOKEN", "PASSWORD"))


def test_kuberay_start_parameters_are_options_of_ray_start() -> None:
    spec = read("kuberay.yaml")["spec"]
    options = {option for parameter in ray_command.commands["start"].params for option in parameter.opts}
    for group in (spec["headGroupSpec"], *spec["workerGroupSpecs"]):
        for name, value in group["rayStartParams"].items():
            assert f"--{name}" in options
            assert isinstance(value, str), f"{name} has to be a string"


def test_the_head_alone_serves_and_has_no_cores() -> None:
    serving = {
        name: "agent-span server start" in container["args"][0]
        for name, pod in pods().items()
        for container in pod["containers"]
    }
    assert serving == {"head": True, "workers": False}
    assert read("kuberay.yaml")["spec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"


def test_the_image_is_made_of_what_is_here() -> None:
    for line in (CLUSTER / "Dockerfile").read_text().splitlines():
        if line.startswith("COPY"):
            *sources, _ = [word for word in line.split()[1:] if not word.startswith("--")]
            assert all((ROOT / source).exists() for source in sources), line
