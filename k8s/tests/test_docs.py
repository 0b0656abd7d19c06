"""What docs/ says of the manifests is so: the arithmetic, the tables, the paths, and the pieces that an operator copies."""

import math
import re
import shutil
import textwrap

import pytest
import rendering
import test_manifests
import walker
import yaml

DOCS = {name: (rendering.ROOT / f"docs/{name}.md").read_text() for name in ("kubernetes", "argocd", "disaster-recovery", "rancher")}


def table(text, heading):
    """The rows of the table whose first cell in the head is `heading`."""
    rows = text.split(f"| {heading} |", 1)[1].split("\n\n", 1)[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in rows]


def both(cell):
    """`1930m, 6903Mi` as millicores and MiB."""
    processor, memory = cell.split(", ")
    return round(walker.quantity(processor) * 1000), round(walker.quantity(memory) / 2**20)


def pod():
    (one,) = walker.pods(rendering.rendered()["overlays/eks/prod"])
    return one


def asked(name):
    return sum(walker.quantity(c["resources"]["requests"][name]) for c in pod().containers)


def test_what_a_pod_asks_for_is_what_the_manifests_ask_for():
    rows = {row[0].strip("`"): row[1:] for row in table(DOCS["kubernetes"], "container")}
    for container in pod().containers:
        resources = container["resources"]
        processor, memory, disk = rows[container["name"]]
        assert processor == resources["requests"]["cpu"]
        assert memory == f"{resources['requests']['memory']}, {resources['limits']['memory']}"
        assert disk.split(":")[0] == resources["requests"]["ephemeral-storage"]
    processor, memory, disk = rows["together"]
    assert walker.quantity(processor) == pytest.approx(asked("cpu"))
    assert walker.quantity(memory) == asked("memory")
    assert walker.quantity(disk) == asked("ephemeral-storage")


def test_the_arithmetic_of_pods_per_node_is_right_and_holds_what_is_asked_for():
    per_node = {}
    for node, room, own, by_processor, by_memory, fits in table(DOCS["kubernetes"], "node"):
        (processor, memory), (own_processor, own_memory) = both(room), both(own)
        assert int(by_processor) == math.floor((processor - own_processor) / (asked("cpu") * 1000)), node
        assert int(by_memory) == math.floor((memory - own_memory) / (asked("memory") / 2**20)), node
        assert int(fits) == min(int(by_processor), int(by_memory)), node
        cloud, environments = node.split(":")[0].split(" ", 1)
        for environment in environments.split(", "):
            per_node[cloud.lower(), environment] = int(fits)
    assert set(per_node) == {(cloud, environment) for cloud in rendering.CLOUDS for environment in rendering.ENVIRONMENTS}
    for (cloud, environment), fits in per_node.items():
        scalers = [o for o in rendering.rendered()[f"overlays/{cloud}/{environment}"] if o["kind"] == "HorizontalPodAutoscaler"]
        most = scalers[0]["spec"]["maxReplicas"] if scalers else 1
        # Three nodes hold what there may be, and the one more of a rollout; two hold the least that there must be.
        assert most + 1 <= 3 * fits, f"{cloud} {environment}"
        assert (scalers[0]["spec"]["minReplicas"] if scalers else 1) <= 2 * fits


def test_each_component_is_in_the_table_and_nothing_else():
    text = DOCS["kubernetes"].split("| component |", 1)[1].split("\n\n", 1)[0]
    named = set()
    for row in text.splitlines()[2:]:
        cell = row.split("|")[1]
        full = re.findall(r"`([a-z][a-z-]*)`", cell)
        short = re.findall(r"`(-[a-z]+)`", cell)
        named |= set(full) | {re.sub(r"-[a-z]+$", end, full[0]) for end in short}
    assert named == {file.parent.name for file in rendering.SOURCES.glob("components/*/kustomization.yaml")}


def test_each_key_to_edit_is_in_the_table_and_in_some_overlay():
    text = DOCS["kubernetes"].split("| file |", 1)[1].split("\n\n", 1)[0]
    named = {key for row in text.splitlines()[2:] for key in re.findall(r"`([A-Z][A-Z_]+)`", row.split("|")[2])}
    keys = {
        line.split("=")[0]
        for file in rendering.SOURCES.glob("overlays/*/*/cluster/*.env")
        for line in file.read_text().splitlines()
        if line and not line.startswith("#")
    }
    assert named == keys


def test_the_versions_are_those_that_are_checked():
    for version in test_manifests.KUBERNETES:
        assert version in DOCS["kubernetes"]


def test_paths_and_links_lead_somewhere():
    for name, text in DOCS.items():
        for path in re.findall(r"(?<![\w/.])((?:k8s|\.ci)/[\w./-]*\w)", text):
            if not path.startswith("k8s/overlays/own"):
                assert (rendering.ROOT / path).exists(), f"{name}: {path}"
        for target, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", text):
            if target.startswith("http"):
                continue
            file = rendering.ROOT / "docs" / (target or f"{name}.md")
            assert file.exists(), f"{name}: {target}"
            if anchor:
                headings = re.findall(r"^#+ (.+)$", file.read_text(), re.MULTILINE)
                anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
                assert anchor in anchors, f"{name}: {target}#{anchor}"


def piece(name, begins):
    """An indented piece of a page that begins with a line, as it would be copied."""
    text = DOCS[name]
    lines = text[text.rindex("\n", 0, text.index(begins)) + 1 :].splitlines()
    indent = re.match(r" *", lines[0])[0]
    taken = []
    for line in lines:
        if line.strip() and not line.startswith(indent):
            break
        taken.append(line)
    return textwrap.dedent("\n".join(taken)).strip() + "\n"


@pytest.fixture
def overlay():
    """Makes an overlay from what a page says."""
    made = []

    def make(where, kustomization, like, cluster=""):
        folder = rendering.tree() / where
        made.append(folder)
        shutil.copytree(rendering.tree() / like, folder)
        (folder / "kustomization.yaml").write_text(kustomization)
        with (folder / "cluster/cluster.env").open("a") as env:
            env.write(cluster)
        return list(yaml.safe_load_all(rendering.kustomize(folder)))

    yield make
    for folder in made:
        shutil.rmtree(folder)


def test_the_overlay_of_machines_of_your_own_renders_and_fits_together(overlay):
    text = piece("rancher", "# k8s/overlays/own/prod/kustomization.yaml")
    objects = overlay("overlays/own/prod", text, "overlays/eks/prod", "INGRESS_CLASS=traefik\n")
    found = [problem for problem in walker.problems(objects) if not problem.startswith("the_cloud_knows_the_pod")]
    assert found == []


def test_the_policy_of_rancher_s_monitoring_is_patched_as_the_page_says(overlay):
    text = (rendering.tree() / "overlays/eks/prod/kustomization.yaml").read_text()
    objects = overlay("overlays/variants/rancher", text + piece("rancher", "patches:\n"), "overlays/eks/prod")
    policy = next(one for one in objects if one["kind"] == "NetworkPolicy" and one["metadata"]["name"] == "metrics")
    labels = policy["spec"]["ingress"][0]["from"][0]["namespaceSelector"]["matchLabels"]
    assert labels == {"kubernetes.io/metadata.name": "cattle-monitoring-system"}


def test_a_shared_gateway_is_patched_in_as_the_page_says(overlay):
    text = (rendering.tree() / "overlays/eks/prod/kustomization.yaml").read_text().replace("  - ../../../components/gateway-eks\n", "")
    objects = overlay("overlays/variants/shared", text + piece("kubernetes", "patches:\n"), "overlays/eks/prod")
    assert not [one for one in objects if one["kind"] == "Gateway"]
    route = next(one for one in objects if one["kind"] == "HTTPRoute")
    assert route["spec"]["parentRefs"] == [{"name": "shared", "namespace": "gateways"}]


def test_signers_are_made_as_the_page_says():
    (generator,) = yaml.safe_load(piece("kubernetes", "- name: mainstay-signers"))
    text = (rendering.tree() / "overlays/variants/signed/cluster/kustomization.yaml").read_text()
    assert generator in yaml.safe_load(text)["configMapGenerator"]
