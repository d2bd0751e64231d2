"""What prefect.yaml deploys for a work pool, and what a Kubernetes job is made of."""

import json
import re
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml
from prefect import Flow
from prefect.cli.deploy._models import PrefectYamlModel
from prefect.utilities.importtools import import_object

from flows.service import FLOWS
from schedules.foresight.cadence import ONE_AT_A_TIME

ROOT = Path(__file__).parents[2]
FILE: dict[str, Any] = yaml.safe_load((ROOT / "prefect.yaml").read_text())
DEPLOYMENTS: list[dict[str, Any]] = FILE["deployments"]
TEMPLATE: dict[str, Any] = json.loads((ROOT / "infra" / "prefect" / "kubernetes.json").read_text())


def test_prefect_reads_it_and_it_has_every_flow_once() -> None:
    assert len(PrefectYamlModel.model_validate(FILE).deployments) == len(FLOWS)
    flows = [import_object(each["entrypoint"]) for each in DEPLOYMENTS]
    assert all(isinstance(flow, Flow) for flow in flows)
    assert sorted(flow.name for flow in flows) == sorted(flow.name for flow in FLOWS.values())
    assert FILE["prefect-version"] == version("prefect")


@pytest.mark.parametrize("deployment", DEPLOYMENTS, ids=lambda each: each["entrypoint"].rpartition(".")[2])
def test_a_deployment_is_of_this_version_and_off_and_its_flow_takes_its_parameters(deployment: dict[str, Any]) -> None:
    flow = import_object(deployment["entrypoint"])
    given = deployment.get("parameters", {})
    assert given.keys() <= flow.parameters.properties.keys()
    if given:
        flow.validate_parameters(given)
    assert deployment["version"] == version("firsttoken")
    assert not any(schedule["active"] for schedule in deployment.get("schedules", ()))
    assert ("concurrency_limit" in deployment) == (flow.name in ONE_AT_A_TIME)
    assert deployment["work_pool"] == {"name": "firsttoken"}


def test_all_that_a_kubernetes_job_is_made_of_is_a_variable_with_a_default_or_none() -> None:
    variables = TEMPLATE["variables"]["properties"]
    text = json.dumps(TEMPLATE["job_configuration"])
    used = set(re.findall(r"\{\{ (\w+) \}\}", text))
    assert used == set(variables)
    assert variables["env"]["default"] == {"FLOW_CONTEXT": "/etc/firsttoken/flow-context.json"}
    (container,) = TEMPLATE["job_configuration"]["job_manifest"]["spec"]["template"]["spec"]["containers"]
    assert container["volumeMounts"][0]["mountPath"] == "/etc/firsttoken"
