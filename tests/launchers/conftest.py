"""The schedulers that a sweep is given to, started for real. `make test-launchers` brings what they need of Python."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def slurm() -> Iterator[Path]:
    """A Slurm of one node; the path of its configuration."""
    lacking = [name for name in ("slurmctld", "slurmdbd", "munged", "mariadbd", "sbatch") if shutil.which(name) is None]
    if lacking:
        pytest.skip(
            f"no {', '.join(lacking)} here; on Debian: slurmctld slurmd slurmdbd slurm-client munge mariadb-server"
        )
    # A short path: that of a socket may have 107 letters.
    with tempfile.TemporaryDirectory(prefix="slurm-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        try:
            subprocess.run([HERE / "slurm.sh", "up", folder], check=True, timeout=240)
            yield Path(folder) / "slurm.conf"
        finally:
            subprocess.run([HERE / "slurm.sh", "down", folder], check=False, timeout=60)


@pytest.fixture(scope="session")
def ray() -> Iterator[str]:
    """A Ray cluster on the loopback, of two nodes: one says that it has a GPU of 24 GiB, one that it has one of 80."""
    port = _free_port()
    # Nothing listens beyond the loopback, and nobody is told of it.
    os.environ.update(
        RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0", RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0", RAY_DEDUP_LOGS="0"
    )
    start = [sys.executable, "-m", "ray.scripts.scripts", "start", "--node-ip-address=127.0.0.1", "--num-cpus=1"]
    start += ["--num-gpus=0", "--object-store-memory=100000000", "--disable-usage-stats", "--block"]
    head = [*start, "--head", f"--port={port}", "--include-dashboard=false", '--resources={"gpu_gib": 24}']
    more = [*start, f"--address=127.0.0.1:{port}", '--resources={"gpu_gib": 80}']
    nodes = []
    try:
        for command in (head, more):
            nodes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
            _wait_for_port(port)
        yield f"127.0.0.1:{port}"
    finally:
        for node in reversed(nodes):
            node.send_signal(signal.SIGTERM)
            node.wait(timeout=60)


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return taken.getsockname()[1]


def _wait_for_port(port: int, patience: float = 90) -> None:
    until = time.monotonic() + patience
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)
