"""Renders what operators apply: every overlay, every optional component on one of them, and what Argo CD, Flux and KServe get.

Works on a copy of k8s/, so that a test may change it.
"""

import functools
import json
import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "k8s"
WORK = Path(os.environ.get("MANIFESTS_WORK", ROOT / "target/ci/manifests"))
CLOUDS = ("eks", "aks", "gke")
ENVIRONMENTS = ("dev", "stage", "prod")
OVERLAYS = [f"overlays/{cloud}/{environment}" for cloud in CLOUDS for environment in ENVIRONMENTS]


@dataclass
class Variant:
    """An overlay with a component that is in none by itself, as docs/kubernetes.md tells an operator to add it."""

    overlay: str
    adds: list
    drops: list = field(default_factory=list)
    cluster: dict = field(default_factory=dict)
    sync: dict = field(default_factory=dict)
    signers: bool = False


GATEWAY = ["gateway", "gateway-eks"]
VARIANTS = {
    "git-ssh": Variant("overlays/eks/dev", ["git-ssh"], ["git-token"], sync={"REPOSITORY": "ssh://git@git.example.com/models/config.git"}),
    "git-app": Variant("overlays/eks/dev", ["git-app"], ["git-token"], sync={"GITHUB_APP_ID": "12345"}),
    "signed": Variant("overlays/eks/prod", ["signers", "signed-commits", "signed-models"], signers=True),
    "webhook": Variant("overlays/eks/stage", ["webhook"]),
    "keda": Variant("overlays/eks/prod", ["keda"], ["autoscaling"], cluster={"PROMETHEUS_URL": "http://prometheus.monitoring.svc:9090"}),
    "ingress": Variant("overlays/eks/prod", ["ingress"], GATEWAY, cluster={"INGRESS_CLASS": "traefik"}),
    "istio": Variant("overlays/eks/prod", ["istio"], GATEWAY),
    "consul": Variant("overlays/eks/prod", ["consul"], GATEWAY),
    "large-store-eks": Variant("overlays/eks/prod", ["large-store-eks"]),
    "large-store-aks": Variant("overlays/aks/prod", ["large-store-aks"]),
    "large-store-gke": Variant("overlays/gke/prod", ["large-store-gke"]),
    "load-balancer-eks": Variant("overlays/eks/stage", ["load-balancer-eks"], GATEWAY),
    "load-balancer-aks": Variant("overlays/aks/stage", ["load-balancer-aks"], ["gateway", "gateway-aks"]),
    "load-balancer-gke": Variant("overlays/gke/stage", ["load-balancer-gke"], ["gateway", "gateway-gke"]),
}
OTHERS = [
    "argocd",
    "argocd/notifications",
    *[f"argocd/cluster/{name}" for name in ("manager", *ENVIRONMENTS)],
    *[f"flux/{cloud}/{environment}" for cloud in CLOUDS for environment in ENVIRONMENTS],
    "kserve",
]
SIGNERS = "apiVersion: mainstay/v1\nsigners:\n  - name: Ada\n    ssh: ssh-ed25519 AAAA\n"


def kustomize(folder):
    """What `kubectl kustomize` prints for `folder`."""
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{folder}: {done.stderr.strip()}")
    return done.stdout


def prepare(tree):
    """A copy of k8s/ at `tree` in which every variant is an overlay beside the shipped ones."""
    shutil.rmtree(tree, ignore_errors=True)
    shutil.copytree(SOURCES, tree, ignore=shutil.ignore_patterns("tests", "__pycache__"))
    for name, variant in VARIANTS.items():
        folder = tree / "overlays/variants" / name
        shutil.copytree(tree / variant.overlay, folder)
        file = folder / "kustomization.yaml"
        text = file.read_text()
        for dropped in variant.drops:
            line = f"  - ../../../components/{dropped}\n"
            assert line in text, f"{variant.overlay} has no {dropped}"
            text = text.replace(line, "")
        added = "".join(f"  - ../../../components/{component}\n" for component in variant.adds)
        file.write_text(text.replace("images:\n", f"{added}images:\n"))
        for settings, values in (("cluster.env", variant.cluster), ("sync.env", variant.sync)):
            env = folder / "cluster" / settings
            kept = [line for line in env.read_text().splitlines() if line.split("=")[0] not in values]
            env.write_text("\n".join(kept + [f"{key}={value}" for key, value in values.items()]) + "\n")
        if variant.signers:
            (folder / "cluster/signers.yaml").write_text(SIGNERS)
            kustomization = folder / "cluster/kustomization.yaml"
            generator = "  - name: mainstay-signers\n    files: [signers.yaml]\n    options: { disableNameSuffixHash: true }\n"
            kustomization.write_text(kustomization.read_text() + generator)
    return tree


@functools.cache
def tree():
    """The copy that the renderings come from."""
    return prepare(WORK / "tree")


@functools.cache
def rendered():
    """Every rendering, as its objects, by the folder that it comes from; also written to files for other tools."""
    folders = [*OVERLAYS, *[f"overlays/variants/{name}" for name in VARIANTS], *OTHERS]
    copy = tree()
    with ThreadPoolExecutor(2) as pool:
        texts = dict(zip(folders, pool.map(lambda folder: kustomize(copy / folder), folders), strict=True))
    out = WORK / "rendered"
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    for folder, text in texts.items():
        (out / f"{folder.replace('/', '-')}.yaml").write_text(text)
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return {folder: list(yaml.load_all(text, loader)) for folder, text in texts.items()}


def workloads():
    """The renderings in which Mainstay runs: overlays and variants."""
    return {folder: objects for folder, objects in rendered().items() if folder.startswith("overlays/")}


def distinct():
    """Every object of every rendering once, with the folder where it was first seen."""
    seen = {}
    for folder, objects in rendered().items():
        for one in objects:
            seen.setdefault(json.dumps(one, sort_keys=True), (folder, one))
    return list(seen.values())


def named(one):
    return f"{one['kind']}/{one['metadata']['name']}"
