"""Kubernetes manifests against the schemas, by kubeconform."""

import os
import subprocess

from conftest import ROOT


def test_manifests_are_valid_and_damaged_ones_are_not():
    done = subprocess.run(
        [ROOT / "tests/deploy/k8s_manifests.sh", os.environ["KUBECONFORM"]],
        capture_output=True, text=True, timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
