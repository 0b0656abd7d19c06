"""A pod without a cluster: the two programs as a rendering has them, with its arguments, its environment and its order.

As root, each runs as the pod's user, without capabilities, on a root that cannot be written, and the server's store cannot
be written either; as anybody else they run as they are. Nothing but the loopback interface is asked.
"""

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import rendering
import walker

MAINSTAY = Path(os.environ.get("MAINSTAY", rendering.ROOT / "target/debug/mainstay")).resolve()
USER = 65532
CONFINED = os.geteuid() == 0
# How long a pod may take to be ready, and an event to come; far beyond what either takes.
PATIENCE_S = 90

CONFINE = """
set -eu
mount --make-rprivate /
mount --bind "$PROGRAM" "$BIN"
mount --bind "$ENGINE" "$LIB"
mount --bind "$STORE" "$STORE"
[ "$WRITES" = yes ] || mount -o remount,bind,ro "$STORE"
[ "$WRITES" = no ] || mount -t tmpfs tmpfs /tmp
mount -o remount,bind,ro /
exec setpriv --reuid "$USER_ID" --regid "$USER_ID" --clear-groups --no-new-privs --inh-caps=-all --bounding-set=-all "$@"
"""


def library():
    """ONNX Runtime's library: beside the program, or where its build put it."""
    beside = MAINSTAY.with_name("libonnxruntime.so")
    return beside if beside.exists() else next(MAINSTAY.parent.glob("build/mainstay-server-*/out/libonnxruntime.so"))


def expanded(arguments, variables):
    """The arguments as the kubelet hands them on."""
    return [re.sub(r"\$\(([^)]*)\)", lambda match: variables[match[1]], text) for text in arguments]


def free_port():
    """A port that nobody has, and that the kernel gives to nobody who asks for any."""
    for port in random.sample(range(10_000, 16_000), 6_000):
        with contextlib.suppress(OSError), socket.socket() as one:
            one.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


def get(url, body=None):
    request = urllib.request.Request(url, data=body, headers={"Content-Type": "application/json"} if body else {})
    try:
        with urllib.request.urlopen(request, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return None, ""


def until(what, holds):
    """Waits for an event; what it waits for is in the error where it does not come."""
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        value = holds()
        if value:
            return value
        time.sleep(0.05)
    raise AssertionError(f"not within {PATIENCE_S} s: {what()}" if callable(what) else f"not within {PATIENCE_S} s: {what}")


class Pod:
    """A pod of an overlay, which follows `repository` with an empty store in `folder`."""

    def __init__(self, objects, folder, repository, artifacts):
        self.folder = folder
        self.store = folder / "store"
        for path in (self.store, folder / "bin", folder / "lib"):
            path.mkdir(parents=True)
        (pod,) = walker.pods(objects)
        self.containers = {name: pod.container(name) for name in ("sync", "server")}
        settings = next(o for o in objects if o["kind"] == "ConfigMap" and o["metadata"]["name"].startswith("mainstay-sync"))
        self.variables = settings["data"] | {"REPOSITORY": str(repository), "ARTIFACTS": artifacts, "INTERVAL": "100ms"}
        self.ports = {port: free_port() for port in (5000, 9090, 9091)}
        self.programs = {}
        if CONFINED:
            os.chown(self.store, USER, USER)

    def arguments(self, name):
        """The container's own, with ports that are free here, this pod's folder, and no Secret."""
        given = []
        for text in expanded(self.containers[name]["args"], self.variables):
            flag = text.split("=", 1)[0]
            if flag == "--token-file":
                continue
            if flag in ("--listen", "--admin", "--server"):
                text = re.sub(r"(?:0\.0\.0\.0|127\.0\.0\.1):(\d+)", lambda match: f"127.0.0.1:{self.ports[int(match[1])]}", text)
            given.append(f"--store={self.store}" if flag == "--store" else text)
        return given

    def start(self, name):
        environment = {"PATH": os.environ["PATH"], "MAINSTAY_LOG_FORMAT": "json", "ORT_DYLIB_PATH": str(library())}
        command = [str(MAINSTAY), *self.arguments(name)]
        if CONFINED:
            environment |= {
                "PROGRAM": str(MAINSTAY.parent),
                "BIN": str(self.folder / "bin"),
                "ENGINE": str(library().parent),
                "LIB": str(self.folder / "lib"),
                "STORE": str(self.store),
                "USER_ID": str(USER),
                "WRITES": "yes" if name == "sync" else "no",
                "ORT_DYLIB_PATH": str(self.folder / "lib/libonnxruntime.so"),
            }
            command = ["unshare", "--mount", "sh", "-c", CONFINE, "sh", str(self.folder / "bin" / MAINSTAY.name), *self.arguments(name)]
        with (self.folder / f"{name}.log").open("a") as log:
            self.programs[name] = subprocess.Popen(command, stdout=log, stderr=log, env=environment)

    def log(self, name):
        return (self.folder / f"{name}.log").read_text()[-4000:]

    def url(self, port, path):
        return f"http://127.0.0.1:{self.ports[port]}{path}"

    def probed(self, name, kind):
        """What the kubelet is answered."""
        probe = self.containers[name][kind]["httpGet"]
        number = next(p["containerPort"] for p in self.containers[name]["ports"] if p["name"] == probe["port"])
        return get(self.url(number, probe["path"]))[0] == 200

    def run(self):
        """Starts the containers in the kubelet's order: the next when the startup probe of the one before succeeds."""
        for name in ("sync", "server"):
            self.start(name)

            def started(name=name):
                assert self.programs[name].poll() is None, self.log(name)
                return self.probed(name, "startupProbe")

            until(lambda name=name: f"{name} started\n{self.log(name)}", started)
        assert all(self.probed(name, kind) for name in self.programs for kind in ("livenessProbe", "readinessProbe"))
        return self

    def status(self, port):
        return json.loads(get(self.url(port, "/status"))[1])

    def until_live(self, commit):
        """Waits until the sidecar has seen the server take the release of `commit`."""

        def live():
            release = self.status(9091)["release"]
            return release and release["commit"]["id"] == commit and release["times"]["live_unix_ms"]

        until(lambda: f"{commit} live\n{self.log('sync')}", live)

    def served(self):
        """Which bytes answer, and what they answer: everything that a client could tell one cluster from another by."""
        models = {(one["name"], one["version"]): one["sha256"] for one in self.status(9090)["models"] if one["state"] == "live"}
        answers = {}
        info = json.loads(get(self.url(5000, "/info"))[1])
        for model in info["models"]:
            features = next(one for one in model["versions"] if one["version"] == model["stable"])["features"]
            row = {one["name"]: one["range"][0] if "range" in one else one["categories"][0] for one in features}
            code, text = get(self.url(5000, f"/models/{model['name']}/predict"), json.dumps([row]).encode())
            assert code == 200, text
            answers[model["name"]] = json.loads(text)
        return self.status(9090)["release"]["commit"], models, answers

    def resident_bytes(self, name):
        text = Path(f"/proc/{self.programs[name].pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", text)[1]) * 1024

    def kill(self):
        """As a node that is gone: nothing is told, nothing is saved."""
        for program in self.programs.values():
            program.send_signal(signal.SIGKILL)
        for program in self.programs.values():
            program.wait()
        self.programs = {}
