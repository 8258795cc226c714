"""Machines that are alike and share nothing: each has a network address, a file system, a HOME, a
/tmp and processes of its own, on this machine, by Linux namespaces.

A machine's file system starts as this one's, without what lies in /tmp and in the home folders; what
is written there is gone with the machine. Its user is `ray` (1000), whose HOME is empty. Needs the
rights of root, and the programs `unshare`, `nsenter` and `ip`.
"""

import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = "/opt/package"  # where a machine has this repository
PROGRAMS = f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin"
USER = 1000
READY = "/ready"

# $1: an empty folder; the others are pairs of a folder or file here and its place on the machine.
# What is below the file system of this one is bound anew: an overlay does not show it.
SET_UP = f"""
set -eu
umask 022
base=$1; shift
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs "$base"
mkdir "$base/upper" "$base/work" "$base/root"
mount -t overlay overlay -o "lowerdir=/,upperdir=$base/upper,workdir=$base/work" "$base/root"
cd "$base/root"
mount --rbind /dev dev
mount -t tmpfs tmpfs dev/shm
mount --rbind /sys sys  # vLLM asks lscpu for the cores
mount -t proc proc proc
for folder in tmp root home var/tmp; do mount -t tmpfs tmpfs "$folder"; done
chmod 1777 tmp var/tmp dev/shm
sed -i '/^[^:]*:[^:]*:{USER}:/d' etc/passwd  # somebody else here may have the number
echo 'ray:x:{USER}:100::/home/ray:/bin/bash' >> etc/passwd
mkdir home/ray && chown {USER}:100 home/ray
while [ $# -gt 0 ]; do
  if [ -d "$1" ]; then mkdir -p "./$2"; else mkdir -p "./$(dirname "$2")"; touch "./$2"; fi
  mount --bind "$1" "./$2"
  shift 2
done
"""


def can_make_machines() -> bool:
    """Whether this process has the rights that machines need."""
    return os.getuid() == 0 and all(shutil.which(name) for name in ("unshare", "nsenter", "ip"))


@dataclass(frozen=True)
class Machine:
    """One machine; `pid` is the process that holds it."""

    name: str
    address: str
    pid: int
    root: Path

    def command(self, line: str, environment: Mapping[str, str], user: int = USER) -> list[str]:
        """The command that runs a line of bash on this machine, in the user's HOME and with that
        environment alone.
        """
        given = {"PATH": PROGRAMS, "HOME": "/home/ray", "LANG": "C.UTF-8"} | dict(environment)
        enter = ["nsenter", f"--target={self.pid}", "--mount", "--net", "--uts", "--pid"]
        become = ["setpriv", f"--reuid={user}", f"--regid={100 if user == USER else user}"]
        variables = [f"{key}={value}" for key, value in given.items()]
        home = shlex.quote(given["HOME"])
        return [
            *enter,
            *("chroot", str(self.root)),
            *(*become, "--clear-groups", "env", "-i", *variables),
            *("bash", "-c", f"cd {home} && {line}"),
        ]

    def run(
        self, line: str, environment: Mapping[str, str], timeout: float = 300
    ) -> subprocess.CompletedProcess[str]:
        """Run a line to its end; its output and errors together are `stdout`."""
        return subprocess.run(
            self.command(line, environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=timeout,
        )

    @contextmanager
    def start(
        self, line: str, environment: Mapping[str, str], log: Path, user: int = USER
    ) -> Iterator[subprocess.Popen[bytes]]:
        """Run a line in the background until the block ends."""
        with log.open("ab") as output:
            process = subprocess.Popen(
                self.command(line, environment, user),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            process.kill()
            process.wait(60)

    def write_protect(self) -> None:
        """From now on only /tmp and what was mounted into this machine can be written."""
        here = ["nsenter", f"--target={self.pid}", "--mount"]
        for folder in ("home", "root", "var/tmp", ""):
            mount = ["mount", "-o", "remount,ro", str(self.root / folder)]
            subprocess.run([*here, *mount], check=True)


@contextmanager
def run_machines(
    addresses: Mapping[str, str], mounts: Mapping[str, Mapping[Path, str]]
) -> Iterator[dict[str, Machine]]:
    """Machines by their names and IP addresses, which reach each other and nobody else.

    `mounts` are folders or files of this machine, by the name of a machine, and their places there.
    Everything ends with the block.
    """
    with ExitStack() as stack, tempfile.TemporaryDirectory(prefix="machines-") as folder:
        switch = stack.enter_context(_hold(["unshare", "--net"]))
        _inside(switch, "ip link add switch type bridge && ip link set switch up")
        hosts = Path(folder, "hosts")
        names = "".join(f"{address} {name}\n" for name, address in addresses.items())
        hosts.write_text(f"127.0.0.1 localhost\n{names}")
        resolver = Path(folder, "resolv.conf")
        resolver.touch()  # no name server: one that does not answer costs gRPC seconds for each name
        for file in (hosts, resolver):
            file.chmod(0o644)
        machines = {}
        for number, (name, address) in enumerate(addresses.items()):
            base = Path(folder, name)
            base.mkdir()
            places = {
                ROOT: PACKAGE,
                hosts: "/etc/hosts",
                resolver: "/etc/resolv.conf",
                Path(sys.base_prefix): sys.base_prefix,
                # An overlay loses folders that appear in it below, as those of compiled modules do.
                Path(sys.prefix): sys.prefix,
            }
            pairs = []
            for source, place in (places | dict(mounts.get(name, {}))).items():
                # Links are followed here: from the machine's root they would lead out of it.
                pairs += [str(source), os.path.realpath(place)]
            pid = stack.enter_context(
                _hold(
                    ["unshare", "--mount", "--net", "--uts", "--pid", "--fork", "--kill-child"],
                    f"{SET_UP}\nhostname {name}\ntouch {base}/root{READY}",
                    [str(base), *pairs],
                )
            )
            _plug(switch, pid, number, address)
            machines[name] = Machine(name, address, pid, base / "root")
            _wait_until_ready(machines[name])
        yield machines


@contextmanager
def _hold(
    command: list[str], script: str = "", arguments: list[str] | None = None
) -> Iterator[int]:
    """A process that keeps namespaces alive; gives the id of the one that is inside."""
    # It dies with this process, however this process ends.
    line = [
        "setpriv",
        "--pdeathsig=KILL",
        *command,
        "bash",
        "-c",
        f"{script}\nexec sleep infinity",
        "hold",
        *(arguments or []),
    ]
    process = subprocess.Popen(line, stdin=subprocess.DEVNULL)
    try:
        pid = process.pid
        if "--fork" in command:
            children = Path(f"/proc/{pid}/task/{pid}/children")
            deadline = time.monotonic() + 30
            while not children.read_text().split() and time.monotonic() < deadline:
                time.sleep(0.05)
            pid = int(children.read_text().split()[0])
        else:
            here = Path("/proc/self/ns/net").readlink()
            while Path(f"/proc/{pid}/ns/net").readlink() == here:
                time.sleep(0.05)
        yield pid
    finally:
        process.kill()
        process.wait(60)


def _plug(switch: int, machine: int, number: int, address: str) -> None:
    """A cable from the machine to the switch."""
    _inside(
        switch,
        f"ip link add port{number} type veth peer name eth0 netns {machine} && "
        f"ip link set port{number} master switch up",
    )
    _inside(
        machine,
        f"ip link set lo up && ip addr add {address}/24 dev eth0 && ip link set eth0 up && "
        "ip route add default dev eth0",
    )


def _inside(pid: int, line: str) -> None:
    subprocess.run(["nsenter", f"--target={pid}", "--net", "bash", "-c", line], check=True)


def _wait_until_ready(machine: Machine) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        look = ["nsenter", f"--target={machine.pid}", "--mount", "test", "-e"]
        if subprocess.run([*look, f"{machine.root}{READY}"]).returncode == 0:
            return
        time.sleep(0.1)
    raise TimeoutError(f"machine {machine.name} was not set up")
