"""Imports go one way. Oracle: the layers below; imports are read from the source, lazy ones and registry strings too."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastav

ROOT = Path(__file__).resolve().parents[1]

# Lowest first. A module may import lower layers and its own package, nothing beside or above it.
LAYERS = (
    ("fastav.errors", "fastav.assets", "fastav.interrupt", "fastav.machine", "fastav.table"),
    ("fastav.result", "fastav.layout", "fastav.versions", "fastav.provenance", "fastav.stats", "fastav.question", "fastav.clip"),
    ("fastav.plan",),
    ("fastav.methods",),
    ("fastav.decoder", "fastav.selection", "fastav.flops"),
    ("fastav.seen",),
    ("fastav.engine",),
    ("fastav.clock", "fastav.memory", "fastav.rollout"),
    ("fastav.tiny",),
    ("fastav.models",),
    ("fastav.run",),
    ("fastav.measure",),
    ("fastav.session",),
    ("fastav.calibrate", "fastav.check"),
    ("fastav.page",),
    ("app", "eval", "fastav.__main__"),
)
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}

MEDIA_LIBRARIES = {"av", "moviepy", "soundfile", "imageio_ffmpeg"}
SLOW_TO_IMPORT = ["torch", "transformers", "fvcore", "accelerate", "scipy"]


def modules() -> dict[str, Path]:
    """Module name -> file, of everything that is shipped."""
    files = [ROOT / "app.py", *(ROOT / "fastav").rglob("*.py"), *(ROOT / "eval").rglob("*.py")]
    names = (".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for file in files)
    return dict(zip(names, files, strict=True))


MODULES = modules()
OURS = [name for name in MODULES if name != "fastav"]  # the package itself only lists where its names live


def imports(name: str) -> set[str]:
    """Names of all modules that module `name` imports anywhere in its source, ours as deep as they are known."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[name].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}, line {node.lineno}: relative import; write the full name"
            for alias in node.names:
                home = fastav._HOME.get(alias.name) if node.module == "fastav" else None
                inner = f"{node.module}.{alias.name}"
                found.add(home or (inner if inner in MODULES else node.module))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(r"[\w.]+(:\w+)?", node.value):
            found |= {node.value.partition(":")[0]} & MODULES.keys() - {"app", "eval", "fastav"}
    return found


def layer(module: str) -> str | None:
    """The entry of LAYERS that a module belongs to; None for other people's modules and for `fastav` itself."""
    return next((entry for entry in RANK if module == entry or module.startswith(entry + ".")), None)


def closure(name: str) -> set[str]:
    """All of our modules that are imported, directly or not, when `name` and everything lazy in it runs."""
    seen, todo = set(), [name]
    while todo:
        for module in imports(todo.pop()) & MODULES.keys() - seen - {"fastav"}:
            seen.add(module)
            todo.append(module)
    return seen


@pytest.mark.parametrize("name", OURS)
def test_a_module_imports_only_lower_layers_and_its_own_package(name):
    own = layer(name)
    assert own, f"{name} has no place in LAYERS"
    for module in imports(name):
        other = layer(module)
        if other is not None and other != own:
            assert RANK[other] < RANK[own], f"{name} ({own}) imports {module}"


@pytest.mark.parametrize("name", OURS)
def test_gradio_and_media_libraries_have_one_door_each(name):
    used = {module.partition(".")[0] for module in imports(name)}
    if name != "app" and layer(name) != "fastav.page":
        assert "gradio" not in used, "only app.py and fastav/page/ know the page's library"
    if name not in ("fastav.clip.write", "fastav.clip.decode"):
        assert not used & MEDIA_LIBRARIES, "only write.py and decode.py of fastav/clip/ open media files"


@pytest.mark.parametrize("name", sorted(set(OURS) - {"app"}))
def test_only_the_page_itself_imports_its_package(name):
    """Library, command line and evaluation work where the page's library is not installed."""
    if layer(name) != "fastav.page":
        assert not {module for module in imports(name) if layer(module) == "fastav.page"}


def test_training_never_sees_the_engine():
    """What a model learns must not depend on how it is pruned later."""
    reached = {layer(module) for module in closure("fastav.tiny.train")}
    assert not reached & {"fastav.engine", "fastav.methods", "fastav.rollout", "fastav.plan", "fastav.models", "fastav.session"}


def test_every_public_name_is_where_the_package_says():
    assert all(hasattr(fastav, name) for name in fastav.__all__)
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = fastav.nothing


@pytest.mark.parametrize("module", ["fastav", "app"])
def test_importing_is_quick_in_a_fresh_interpreter(module):
    """The page must come up before the model: none of the packages that take seconds to import is loaded."""
    code = f"import sys, {module}; print([m for m in {SLOW_TO_IMPORT} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
