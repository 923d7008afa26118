"""What the repository says of itself: no place of the machine it was written on, commands that exist."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

#: Home and work folders, and hosts from which packages come: none belongs in what others clone.
PLACES = re.compile(r"(?<![\w.])/(?:work|root|opt|home/\w+|Users/\w+)/|(?:pypi|pythonhosted|download\.pytorch)\.org")


def tracked(root: Path) -> list[Path]:
    """The files that git would commit; those of the folder where this is no checkout."""
    if (root / ".git").exists():
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True).stdout.split("\0")
        return [root / name for name in listed if name and (root / name).is_file()]
    return [path for path in root.rglob("*") if path.is_file() and not {".venv", ".links"} & set(path.parts)]


def test_no_file_names_a_machine_or_a_package_host(root: Path) -> None:
    wrong = []
    for file in tracked(root):
        try:
            text = file.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a picture
        for number, line in enumerate(text.splitlines(), 1):
            if PLACES.search(line):
                wrong.append(f"{file.relative_to(root)}:{number}: {line.strip()[:120]}")
    assert not wrong, "\n".join(wrong)


def test_continuous_integration_runs_what_a_developer_runs(root: Path) -> None:
    script = root / ".ci" / "run"
    assert script.stat().st_mode & 0o111
    assert "make test" in script.read_text(encoding="utf-8")


def test_the_license_is_apache(root: Path) -> None:
    text = (root / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text and "END OF TERMS AND CONDITIONS" in text
