"""The examples for operators agree with what the server is: flags, paths, folders that can be written."""

import re
from pathlib import Path
from typing import Any

import pytest

from gpt2.cli.main import program
from gpt2.serve.app import ENDPOINTS

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"


@pytest.fixture(scope="module")
def pod() -> dict[str, Any]:
    yaml = pytest.importorskip("yaml")
    documents = list(yaml.safe_load_all((EXAMPLES / "kubernetes.yaml").read_text(encoding="utf-8")))
    assert "replicas" not in documents[0]["spec"]  # the autoscaler's
    assert documents[0]["spec"]["template"]["spec"]["containers"][0]["imagePullPolicy"] == "IfNotPresent"
    assert [document["kind"] for document in documents] == ["Deployment", "Service", "HorizontalPodAutoscaler"]
    return documents[0]["spec"]["template"]["spec"]


def serve_with(arguments: list[str]) -> dict[str, Any]:
    verb = program.get_command(program.make_context("gpt2", ["serve"]), "serve")
    assert verb is not None
    return verb.make_context("serve", list(arguments)).params


def test_the_manifest_starts_the_server_and_asks_for_paths_that_there_are(pod: dict[str, Any]) -> None:
    [container] = pod["containers"]
    assert container["args"][0] == "serve"
    chosen = serve_with(container["args"][1:])
    assert chosen["host"] == "0.0.0.0" and chosen["port"] == container["ports"][0]["containerPort"]
    assert [each["name"] for each in container["env"]] == ["GPT2_API_KEYS"]
    gets = {path for method, path, _ in ENDPOINTS if method == "GET"}
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["path"] in gets
    waits = int(container["lifecycle"]["preStop"]["exec"]["command"][1])
    assert pod["terminationGracePeriodSeconds"] > chosen["max_drain_seconds"] + waits


def test_a_root_that_cannot_be_written_leaves_a_place_for_the_cache(pod: dict[str, Any]) -> None:
    [container] = pod["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"]
    cache = re.search(r"XDG_CACHE_HOME=(\S+)", (EXAMPLES / "Dockerfile").read_text(encoding="utf-8"))
    assert cache is not None
    mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
    assert any(cache[1].startswith(mounted[volume["name"]]) for volume in pod["volumes"] if "emptyDir" in volume)


def test_the_systemd_unit_starts_the_server() -> None:
    unit = (EXAMPLES / "gpt2.service").read_text(encoding="utf-8")
    command = re.search(r"^ExecStart=(\S+)/gpt2 serve (.*)$", unit, re.MULTILINE)
    assert command is not None
    chosen = serve_with(command[2].split())
    assert chosen["as_json"]
    limit = re.search(r"^TimeoutStopSec=(\d+)$", unit, re.MULTILINE)
    assert limit is not None and int(limit[1]) > chosen["max_drain_seconds"]
