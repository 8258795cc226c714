"""The port that every replica of Ray Serve opens to its network, and that takes pickles, asks for
Ray's token first. All other ports of a private Ray are of this machine alone.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ATTACK = """
import os, pickle, stat, sys
from ipaddress import ip_address
import grpc, psutil, ray
from ray import serve
from ray.serve.generated import serve_pb2, serve_pb2_grpc
from atgen_ray.ray_runtime.session import has_open_ports, ray_session

class Payload:
    def __reduce__(self):
        return os.mkdir, (sys.argv[1],)

@serve.deployment
class Victim:
    def pid(self):
        return os.getpid()

with ray_session("attack"):
    serve.start(proxy_location="Disabled")
    pid = serve.run(Victim.bind(), name="victim", route_prefix=None).pid.remote().result()
    ports = [each.laddr.port for each in psutil.Process(pid).net_connections() if each.status == "LISTEN"]
    answers = []
    for port in ports:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            request = serve_pb2.ASGIRequest(pickled_request_metadata=pickle.dumps(Payload()))
            try:
                serve_pb2_grpc.ASGIServiceStub(channel).HandleRequest(request, timeout=30)
            except grpc.RpcError as error:
                answers.append(error.code().name)
    private = psutil.Process()
    public = set()
    # A worker that was forked is no child of its raylet.
    for process in [private, psutil.Process(pid), *private.children(recursive=True)]:
        for each in process.net_connections():
            address = ip_address(each.laddr.ip) if each.status == "LISTEN" else ip_address("::1")
            if not (getattr(address, "ipv4_mapped", None) or address).is_loopback:
                public.add((process.pid, each.laddr.port))
    print("public:", len(public), "of the replica:", sum(id_ == pid for id_, _ in public))
    folder = os.path.dirname(os.path.dirname(ray._private.worker._global_node.get_session_dir_path()))
    print("folder:", oct(stat.S_IMODE(os.stat(folder).st_mode)))
    print("open ports:", has_open_ports(), "answers:", *sorted(answers))
    serve.shutdown()
"""


@pytest.mark.parametrize(("mode", "refused"), [("token", True), ("disabled", False)])
def test_a_strangers_pickle_is_refused_unless_ray_was_told_to_ask_nobody(
    tmp_path: Path, mode: str, refused: bool
) -> None:
    """With RAY_AUTH_MODE=disabled the attack works, which shows that it would be noticed, and that
    we must warn.
    """
    script, made = tmp_path / "attack.py", tmp_path / "made-by-a-stranger"
    script.write_text(ATTACK)
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"} | {
        "RAY_AUTH_MODE": mode
    }
    command = [sys.executable, str(script), str(made)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert f"open ports: {not refused} answers:" in done.stdout, done.stderr
    # Ray keeps to loopback but for one port of a replica, and its files to their owner.
    assert "public: 1 of the replica: 1" in done.stdout
    assert "folder: 0o700" in done.stdout
    assert ("UNAUTHENTICATED" in done.stdout) == refused
    assert made.exists() != refused
