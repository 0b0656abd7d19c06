"""The manifests against the real programs: they take these arguments, count these metrics, and come back from git alone.

Needs the program (MAINSTAY, or target/debug/mainstay) and no cluster: a pod's two programs run as the manifests say.
"""

import http.server
import os
import re
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

import live
import monitoring
import pytest
import rendering
import walker

USAGE = 64
SERVING = """apiVersion: mainstay/v1
default: iris
models:
  iris:
    stable: {iris}
  pred-main:
    stable: 1.0.0
"""


@pytest.fixture
def folder():
    """A folder that every user may look into, which a test's own folder need not be."""
    folder = Path(tempfile.mkdtemp(prefix="mainstay-", dir="/var/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def places(folder):
    """A web server on the loopback interface, where artifacts lie outside git."""
    (folder / "artifacts").mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments):
            super().__init__(*arguments, directory=str(folder / "artifacts"))

        def log_message(self, *arguments):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield folder / "artifacts", f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


class Repository:
    """A configuration repository with both shipped models; iris 1.0.0 lies outside git."""

    def __init__(self, folder, artifacts, place):
        self.bare, self.work, self.settings = folder / "config.git", folder / "work", folder / "gitconfig"
        # The repository is the sidecar's user's, who asks git whose it is.
        self.settings.write_text("[user]\n\tname = Ada\n\temail = ada@example.com\n[safe]\n\tdirectory = *\n")
        self.git("init", "--quiet", "--bare", "--initial-branch=main", self.bare, at=folder)
        self.git("clone", "--quiet", self.bare, self.work, at=folder)
        for model, version in (("iris", "1.0.0"), ("iris", "1.1.0"), ("pred-main", "1.0.0")):
            target = self.work / "models" / model / version
            target.mkdir(parents=True)
            for name in ("model.yaml", "model.onnx"):
                shutil.copy(rendering.ROOT / "models" / model / version / name, target / name)
        card = self.work / "models/iris/1.0.0/model.yaml"
        (self.work / "models/iris/1.0.0/model.onnx").rename(artifacts / "iris-1.0.0.onnx")
        card.write_text(card.read_text().replace("file: model.onnx", f"uri: {place}iris-1.0.0.onnx"))
        self.commit("1.0.0")

    def git(self, *command, at=None):
        environment = os.environ | {"GIT_CONFIG_GLOBAL": str(self.settings), "GIT_CONFIG_NOSYSTEM": "1"}
        command = ["git", *map(str, command)]
        done = subprocess.run(command, cwd=at or self.work, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def commit(self, iris):
        """Serves `iris` in prod, and gives the commit."""
        file = self.work / "environments/prod/serving.yaml"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(SERVING.format(iris=iris))
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message", f"Serve iris {iris}")
        self.git("push", "--quiet", "origin", "HEAD:main")
        if live.CONFINED:
            subprocess.run(["chown", "-R", f"{live.USER}:{live.USER}", self.bare], check=True)
        return self.git("rev-parse", "HEAD")


@pytest.fixture
def pods():
    started = []
    yield started
    for pod in started:
        pod.kill()


def containers():
    """Every container that is shipped, as (where, arguments after the kubelet's expansion), each set of arguments once."""
    seen = {}
    for folder, objects in rendering.workloads().items():
        for pod in walker.pods(objects):
            settings = next(o["data"] for o in objects if o["kind"] == "ConfigMap" and o["metadata"]["name"].startswith("mainstay-sync"))
            for container in pod.containers:
                seen.setdefault(tuple(live.expanded(container["args"], settings)), f"{folder} {container['name']}")
    objects = rendering.rendered()["kserve"]
    settings = next(o["data"] for o in objects if o["kind"] == "ConfigMap")
    for container in next(o for o in objects if o["kind"] == "ClusterServingRuntime")["spec"]["containers"]:
        seen.setdefault(tuple(live.expanded(container["args"], settings)), f"kserve {container['name']}")
    return seen


def accepted(arguments, folder):
    """How the program ends that is given these arguments, without following anything that is not on this machine."""
    if arguments[0] == "serve":
        command = [*arguments, "--print-config"]
    else:
        here = {"--repo": str(folder / "nothing"), "--store": str(folder / "store")}
        command = [f"{flag}={here[flag]}" if (flag := text.split("=", 1)[0]) in here else text for text in arguments] + ["--once"]
    done = subprocess.run([str(live.MAINSTAY), *command], capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stderr


def test_the_programs_take_the_arguments_of_every_container(tmp_path):
    found = containers()
    assert len(found) > 10
    for arguments, where in found.items():
        status, said = accepted(arguments, tmp_path)
        # A sidecar without a repository says that it is to be tried again; a wrong command line says so too.
        assert status == (0 if arguments[0] == "serve" else 2), f"{where}: {said}"
        if arguments[0] == "sync":
            # The repository is looked at last of all: before it, the address itself must be one.
            repository = next(text for text in arguments if text.startswith("--repo="))
            assert re.match(r"--repo=(https|ssh)://\S+$", repository), where
    status, _ = accepted(("serve", "--store=/store", "--drain-timeout=30"), tmp_path)
    assert status == USAGE
    status, _ = accepted(("sync", "--repo=x", "--env=prod", "--store=x", "--intervall=1s"), tmp_path)
    assert status == USAGE


def series(text):
    """The names of the metrics in Prometheus' text, each with its labels."""
    found = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        match = re.match(r"(\w+)(?:\{(.*)\})? ", line)
        found.setdefault(match[1], set()).update(re.findall(r'(\w+)="', match[2] or ""))
    return found


# What Prometheus adds to what it scrapes from a pod.
SCRAPED = {"namespace", "pod", "container", "job", "instance", "endpoint"}
# Of the kubelet, not of Mainstay.
FOREIGN = {"kubelet_volume_stats_used_bytes", "kubelet_volume_stats_capacity_bytes"}


def named(query):
    """The metrics that a query names, each with the labels that it asks of them."""
    found = {}
    for name, matchers in re.findall(r"\b(mainstay_\w+|kubelet_\w+)(?:\{([^}]*)\})?", query):
        found.setdefault(name, set()).update(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))
    return found


def test_a_lost_cluster_comes_back_from_git_alone_and_every_query_finds_its_metrics(folder, places, pods):
    artifacts, place = places
    repository = Repository(folder, artifacts, place)
    prod = rendering.rendered()["overlays/eks/prod"]

    first = live.Pod(prod, folder / "first", repository.bare, place)
    pods.append(first)
    first.run()
    rolled = repository.commit("1.1.0")
    first.until_live(rolled)
    back = repository.commit("1.0.0")
    first.until_live(back)
    before = first.served()
    assert before[0] == back and ("iris", "1.0.0") in before[1]
    # What a pod asks its node for is what it takes.
    for name, container in first.containers.items():
        asked = walker.quantity(container["resources"]["requests"]["memory"])
        assert first.resident_bytes(name) < asked, f"{name} takes {first.resident_bytes(name) >> 20} MiB"

    # The cluster is gone, with everything in it: the pods, their stores, whatever an operator had held.
    first.kill()
    shutil.rmtree(first.folder)

    second = live.Pod(prod, folder / "second", repository.bare, place)
    pods.append(second)
    second.run()
    second.until_live(back)
    assert second.served() == before
    if live.CONFINED:
        assert b"CapEff:\t0000000000000000" in Path(f"/proc/{second.programs['server'].pid}/status").read_bytes()

    # Every kind of thing that is counted happens once: a client's fault, a value out of range, wrong bytes.
    assert live.get(second.url(5000, "/predict"), b"[")[0] == 400
    assert live.get(second.url(5000, "/predict"), b"[[500, 3.5, 1.4, 0.2]]")[0] == 200
    card = repository.work / "models/iris/1.2.0/model.yaml"
    card.parent.mkdir()
    text = (repository.work / "models/iris/1.0.0/model.yaml").read_text()
    # Of the right size, and other bytes.
    good = (artifacts / "iris-1.0.0.onnx").read_bytes()
    (artifacts / "iris-1.2.0.onnx").write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    digest = re.search(r"sha256: ([0-9a-f]{64})", text)[1]
    card.write_text(text.replace("iris-1.0.0.onnx", "iris-1.2.0.onnx").replace("version: 1.0.0", "version: 1.2.0").replace(digest, digest[::-1], 1))
    repository.commit("1.2.0")
    live.until(lambda: second.log("sync"), lambda: 'outcome="wrong"' in live.get(second.url(9091, "/metrics"))[1])

    counted = series(live.get(second.url(9090, "/metrics"))[1]) | series(live.get(second.url(9091, "/metrics"))[1])
    recorded = {rule["record"] for group in monitoring.rules()["groups"] for rule in group["rules"] if "record" in rule}
    asked = 0
    for where, query in monitoring.queries():
        for record in recorded:
            query = query.replace(record, "")
        for metric, labels in named(query).items():
            if metric in FOREIGN:
                continue
            assert metric in counted, f"{where}: {metric} is counted by nobody"
            assert labels <= counted[metric] | SCRAPED, f"{where}: {metric} has no {labels - counted[metric] - SCRAPED}"
            asked += 1
    assert asked > 60


def test_the_queries_labels_are_read_as_prometheus_reads_them():
    assert named('sum by (a) (rate(mainstay_rows_total{namespace="x", model=~"y.*"}[5m]))') == {"mainstay_rows_total": {"namespace", "model"}}
    assert series('# HELP a b\na_total{b="c",d="e"} 1\nf 2\n') == {"a_total": {"b", "d"}, "f": set()}
