"""Files for clusters, checked as far as that is possible without a cluster."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
CLUSTER = yaml.safe_load((ROOT / "cluster.yaml").read_text())
TOOLS = Path(sys.executable).parent
SCRIPTS = ["deploy/slurm.sbatch", "deploy/aws/setup.sh", ".ci/run"]


def validated_cluster():
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load((ROOT / "cluster.yaml").read_text()))
    validate_config(config)
    return config


def test_cluster_yaml_is_valid_by_rays_own_schema():
    types = validated_cluster()["available_node_types"]
    assert types["head"]["resources"] == {"CPU": 0, "GPU": 0}
    assert all(kind.get("min_workers", 0) == 0 for kind in types.values()), (
        "an idle cluster costs its head alone"
    )


def test_every_node_has_an_image_a_closed_firewall_and_a_profile_of_its_own():
    nodes = {name: kind["node_config"] for name, kind in CLUSTER["available_node_types"].items()}
    for name, node in nodes.items():
        assert node["ImageId"].startswith("resolve:ssm:/aws/service/deeplearning/ami/")
        assert node["SecurityGroupIds"], "else Ray opens SSH to the world"
        assert node["IamInstanceProfile"]["Name"] == ("emi-ray-head" if name == "head" else "emi-ray-node")
        assert node["MetadataOptions"]["HttpTokens"] == "required"


def test_the_autoscaler_prefers_spot_and_falls_back():
    from ray.autoscaler.v2.scheduler import SchedulingNode  # noqa: F401 - the scheduler that reads priorities

    types = CLUSTER["available_node_types"]
    spot, on_demand = types["gpu_spot"], types["gpu_on_demand"]
    assert spot["resources"] == on_demand["resources"]
    assert spot["priority"] > on_demand.get("priority", 0)
    assert spot["node_config"]["InstanceMarketOptions"] == {"MarketType": "spot"}
    assert "InstanceMarketOptions" not in on_demand["node_config"]


def test_token_authentication_is_on_wherever_a_cluster_ships():
    assert "/home/ray/.ray/auth_token" in CLUSTER["file_mounts"]
    assert "--env RAY_AUTH_MODE=token" in CLUSTER["docker"]["run_options"]
    assert "RAY_AUTH_MODE=token" in (ROOT / "deploy/Dockerfile").read_text()
    assert "RAY_AUTH_MODE=token" in (ROOT / "deploy/slurm.sbatch").read_text()
    assert rayjob()["spec"]["rayClusterSpec"]["authOptions"]["mode"] == "token"


def rayjob():
    return yaml.safe_load((ROOT / "deploy/kuberay.yaml").read_text())


def test_the_ray_job_has_only_fields_that_the_crd_has():
    schema = json.loads((Path(__file__).parent / "rayjob_crd.json").read_text())
    job = rayjob()
    jsonschema.validate(job, schema)
    job["spec"]["rayClusterSpec"]["headGroupSpec"]["replicaz"] = 1
    with pytest.raises(jsonschema.ValidationError, match="replicaz"):
        jsonschema.validate(job, schema)


def test_versions_are_the_same_everywhere():
    pins = dict(
        line.split("==") for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line
    )
    assert rayjob()["spec"]["rayClusterSpec"]["rayVersion"] == pins["ray"]


def test_pins_hold_for_torch_of_any_build():
    """``torch==2.13.0`` also allows ``2.13.0+cpu``; what a CUDA build needs it pins itself, so we must not."""
    names = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and line[0] != "#"]
    assert not [
        line for line in names if "+" in line or " @ " in line or line.startswith(("nvidia-", "triton"))
    ]


@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_are_sound(script):
    subprocess.run(["bash", "-n", script], cwd=ROOT, check=True)
    checker = shutil.which("shellcheck", path=f"{TOOLS}{os.pathsep}{os.environ['PATH']}")
    if checker is None:
        pytest.skip("shellcheck is not installed")
    subprocess.run([checker, script], cwd=ROOT, check=True)


def test_the_dockerfile_is_sound_and_its_user_is_not_root():
    assert "USER 1000" in (ROOT / "deploy/Dockerfile").read_text()
    checker = shutil.which("hadolint", path=f"{TOOLS}{os.pathsep}{os.environ['PATH']}")
    if checker is None:
        pytest.skip("hadolint is not installed")
    subprocess.run([checker, "deploy/Dockerfile"], cwd=ROOT, check=True)


def test_what_the_image_copies_is_not_ignored():
    copied = [
        line.split()[2:-1]
        for line in (ROOT / "deploy/Dockerfile").read_text().splitlines()
        if line[:4] == "COPY"
    ]
    allowed = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert {name for names in copied for name in names} == allowed
    assert all((ROOT / name).exists() for name in allowed)


@pytest.mark.parametrize("document", ["node", "head", "trust"])
def test_rights_are_valid_documents_and_narrow(document):
    policy = json.loads((ROOT / f"deploy/aws/{document}.json").read_text())
    actions = [
        action for rule in policy["Statement"] for action in [rule["Action"]] if isinstance(action, str)
    ]
    actions += [
        action
        for rule in policy["Statement"]
        if isinstance(rule["Action"], list)
        for action in rule["Action"]
    ]
    assert not [action for action in actions if action in ("*", "s3:*", "ec2:*", "iam:*")]
    for rule in policy["Statement"]:
        if any(
            action.startswith("s3:")
            for action in ([rule["Action"]] if isinstance(rule["Action"], str) else rule["Action"])
        ):
            assert rule["Resource"].startswith("arn:aws:s3:::BUCKET")
