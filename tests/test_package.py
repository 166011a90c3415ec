"""What is installed: declared packages against imports, the lock against the ranges, the wheel against the checkout."""

import ast
import json
import os
import subprocess
import sys
import zipfile
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from test_readme import requirements

ROOT = Path(__file__).resolve().parents[1]
QUESTION = "Is the dog making sound in the audio?"
TOOLS = {"ruff", "pytest-timeout", "pytest-xdist", "setuptools"}  # run, or loaded by pytest, without an import
ELSEWHERE = {"spaces"}  # Hugging Face's own; app.py does without it


def imported(*places: str) -> set[str]:
    """Top-level names of other people's modules that the Python files of these places import, lazily or not."""
    files = [file for place in places for file in ([ROOT / place] if place.endswith(".py") else (ROOT / place).rglob("*.py"))]
    names = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                names.add(node.module.partition(".")[0])
    ours = {name for file in (ROOT / "tests").rglob("*.py") for name in (file.stem, file.parent.name)} | {"fastav", "eval", "app"}
    return names - sys.stdlib_module_names - ours - ELSEWHERE


def distributions(modules: set[str]) -> set[str]:
    found = packages_distributions()
    return {found[module][0].lower().replace("_", "-") if module in found else module for module in modules}


def test_every_import_is_declared_and_every_declared_package_is_imported():
    product, dev = (set(requirements(name)) for name in ("requirements.txt", "requirements-dev.txt"))
    assert distributions(imported("app.py", "fastav", "eval")) == product
    assert distributions(imported("tests")) - product == dev - product - TOOLS


def test_the_lock_holds_one_exact_version_inside_every_range():
    lock = [Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if not line.startswith("#")]
    assert all(len(r.specifier) == 1 and next(iter(r.specifier)).operator == "==" for r in lock)
    for name, wanted in (requirements("requirements.txt") | requirements("requirements-dev.txt")).items():
        versions = [next(iter(r.specifier)).version for r in lock if r.name == name]
        assert versions and all(version in wanted.specifier for version in versions), name
    assert Requirement("torch==2.13.0") in lock  # no tag of a build: pip takes the small CPU build where it is offered one


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """The wheel, unpacked into a folder of its own as pip would."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    tracked = subprocess.run(["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True)
    names = tracked.stdout.splitlines() or [str(p.relative_to(ROOT)) for p in ROOT.rglob("*") if p.is_file()]
    for name in names:
        if name.startswith(("fastav/", "assets/tiny/", "assets/examples/")) or "/" not in name:
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(folder), str(source)]
    subprocess.run(command, check=True, capture_output=True)
    [wheel] = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def run(installed, *arguments):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), os.environ.get("PYTHONPATH", "")])}
    return subprocess.run(
        [sys.executable, *arguments], cwd=installed.parent, env=environment, capture_output=True, text=True, timeout=200
    )


def test_the_wheel_answers_without_the_checkout(installed):
    """Oracle: the same command in the checkout."""
    clip = installed / "fastav" / "data" / "examples" / "dog_car.mp4"
    done = run(installed, "-m", "fastav", str(clip), QUESTION, "--json")
    assert done.returncode == 0, done.stderr
    command = [sys.executable, "-m", "fastav", str(clip), QUESTION, "--json"]
    here = json.loads(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout)
    there = json.loads(done.stdout)
    for which in ("vanilla", "pruned"):
        for name in ("answer", "method", "lengths", "layers_seen"):
            assert there[which][name] == here[which][name]


def test_the_wheel_has_the_command_and_every_module_but_the_pages(installed):
    """The page is served from a checkout, by app.py."""
    entry = next(installed.glob("*.dist-info/entry_points.txt")).read_text()
    assert "fastav = fastav.__main__:main" in entry
    ours = {str(file.relative_to(ROOT)) for file in (ROOT / "fastav").rglob("*.py") if file.parent.name != "page"}
    assert ours == {str(file.relative_to(installed)) for file in installed.rglob("*.py")}
    assert all((installed / "fastav" / "data" / "tiny" / name).is_file() for name in ("plan.json", "plan-10.json", "config.json"))
