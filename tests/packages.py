"""Which versions are installed: the lock of both README commands, and the lowest end of the declared ranges.

    python tests/packages.py lock             write constraints.txt (make lock): the newest versions that requirements.txt allows
    python tests/packages.py check-lock       resolve it again on every Python that is here; fails where it no longer resolves
    python tests/packages.py lowest FOLDER    install what differs at the lowest end into FOLDER, to be put on PYTHONPATH

pip resolves, once for each Python; a package whose version differs between them gets a marker. torch is locked to the version
that was run here, without the tag of its build: where pip is offered a small CPU build of it, that one is taken.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "constraints.txt"
PYTHONS = ("3.11", "3.12", "3.13")
TORCH = "torch==2.13.0"
BOTH_ENDS = ("transformers", "gradio", "av", "moviepy")  # what `lowest` lowers: packages whose insides we touch
_CUDA = re.compile(r"nvidia-|cuda-|triton$")  # torch's own pins; a machine without a GPU has none of them
_HEAD = f"""\
# Exact versions that `make demo`, `make test` and the container install. Written by `make lock`; use it with pip's -c.
# A package in this list is installed only where something requires it. Resolved on Python {", ".join(PYTHONS)}; run on 3.11.
"""


def resolve(python: str, *arguments: str) -> dict[str, str]:
    """Package -> version that pip would install, without installing it."""
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        command = [python, "-m", "pip", "install", "-q", "--dry-run", "--report", report.name, *arguments]
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL)
        found = [item["metadata"] for item in json.loads(Path(report.name).read_bytes())["install"]]
    return {item["name"].lower().replace("_", "-"): item["version"].partition("+")[0] for item in found}


def everything(version: str, *constraints: str) -> dict[str, str]:
    """What requirements-dev.txt resolves to on a fresh Python of this version; empty where that Python is not here."""
    python = shutil.which(f"python{version}")
    if python is None or subprocess.run([python, "-c", ""], capture_output=True).returncode:
        print(f"python{version} is not here", file=sys.stderr)
        return {}
    return resolve(python, "--ignore-installed", "-r", "requirements-dev.txt", *constraints)


def lock() -> None:
    versions: dict[str, dict[str, str]] = defaultdict(dict)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as pins:
        print(TORCH, file=pins, flush=True)
        for python in PYTHONS:
            found = everything(python, "-c", pins.name)
            if not found:
                raise SystemExit("the lock needs every Python; it is left as it was")
            for name, version in found.items():
                if not _CUDA.match(name):
                    versions[name][python] = version
    LOCK.write_text(_HEAD + "".join(f"{line}\n" for name in sorted(versions) for line in lines(name, versions[name])))
    print(f"{LOCK.name}: {len(versions)} packages")


def lines(name: str, by_python: dict[str, str]) -> list[str]:
    """The lines of one package, one for each of its versions."""
    if len(set(by_python.values())) == 1:
        return [f"{name}=={next(iter(by_python.values()))}"]
    return [f'{name}=={version} ; python_version == "{python}"' for python, version in by_python.items()]


def check_lock() -> None:
    for python in PYTHONS:
        found = everything(python, "-c", LOCK.name)
        print(f"python{python}: {len(found)} packages" if found else f"python{python}: not checked")


def lowest(folder: Path) -> None:
    """The lowest version of each of BOTH_ENDS, and of what pip says must then differ from the packages installed here."""
    wanted = []
    for line in (ROOT / "requirements.txt").read_text().splitlines():
        requirement = Requirement(line.partition("#")[0]) if line.partition("#")[0].strip() else None
        if requirement and requirement.name in BOTH_ENDS:
            floor = next(s.version for s in requirement.specifier if s.operator == ">=")
            wanted.append(f"{requirement.name}=={floor}.*" if floor.count(".") < 2 else f"{requirement.name}=={floor}")
    pinned = [text.replace(".*", ".0") for text in wanted]
    differing = [f"{name}=={version}" for name, version in resolve(sys.executable, "-r", "requirements.txt", *pinned).items()]
    print(f"lowest end: {', '.join(differing)}")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--upgrade", "--target", str(folder), *differing]
    subprocess.run(command, check=True)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["lock"]:
            lock()
        case ["check-lock"]:
            check_lock()
        case ["lowest", folder]:
            lowest(Path(folder))
        case _:
            sys.exit(__doc__)
