"""The READMEs against what they describe: code runs, commands and files exist, figures are computed again."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import torch
from conftest import random_qwen2
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from test_cost import QWEN2_7B, N, videollama2_lengths
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

import fastav
from fastav import flops

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()
CONTRIBUTING = (ROOT / "CONTRIBUTING.md").read_text()
FRONT_MATTER = dict(re.findall(r"^(\w+): (.*)$", README.split("---\n")[1], re.M))
FOLDERS = {name: (ROOT / name / "README.md").read_text() for name in ("eval", "fastav/methods", "fastav/models")}
TEXTS = "\n".join([README, *FOLDERS.values()])
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", TEXTS, re.M | re.S)
ONE_ARGUMENT, PARTS, OWN_LAYOUT = (text for language, text in BLOCKS if language == "python")
COMMANDS = [line.partition("  #")[0].strip() for language, text in BLOCKS if not language for line in text.splitlines()]


def requirements(name: str) -> dict[str, Requirement]:
    lines = (line.partition("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
    return {r.name: r for r in map(Requirement, (line for line in lines if line and not line.startswith("-")))}


# --- code


def test_one_argument_or_the_parts_prune_a_native_model():
    """Random Qwen2.5-VL. By hand: one stream has fine pruning alone, and 30 % of 20 tokens leave before the last layer."""
    torch.manual_seed(0)
    config = Qwen2_5_VLConfig(
        text_config=dict(
            vocab_size=300,
            hidden_size=48,
            intermediate_size=64,
            num_hidden_layers=4,
            num_attention_heads=4,
            num_key_value_heads=2,
            rope_parameters={"rope_type": "default", "rope_theta": 1e4, "mrope_section": [2, 2, 2]},
            bos_token_id=None,
            eos_token_id=None,
            pad_token_id=None,
        ),
        vision_config=dict(
            depth=1, hidden_size=32, intermediate_size=32, num_heads=2, out_hidden_size=48, fullatt_block_indexes=[0]
        ),
        image_token_id=261,
        video_token_id=262,
        vision_start_token_id=259,
        vision_end_token_id=260,
    )
    model = Qwen2_5_VLForConditionalGeneration(config).eval()
    n_video = 20  # a picture of 8 x 10 patches, merged 2 x 2
    ids = torch.tensor([[1, 2, 259, *[261] * n_video, 260, 3, 4]])
    inputs = {
        "input_ids": ids,
        "attention_mask": torch.ones_like(ids),
        "mm_token_type_ids": (ids == 261).long(),
        "pixel_values": torch.randn(4 * n_video, 3 * 2 * 14 * 14),
        "image_grid_thw": torch.tensor([[1, 8, 10]]),
    }
    names = {"model": model, "inputs": inputs}
    exec(ONE_ARGUMENT + PARTS, names)
    n = ids.shape[1]
    assert names["output"].shape[1] > n
    assert [len(kept) for kept in names["cache"].kept()] == [n, n, n, n - 3 * n_video // 10]


def test_a_layout_of_ones_own_prunes_a_plain_decoder():
    """By hand: 14 + 64 + 100 + 20 = 198; 66 media tokens lie below position 80; then 30 % of 66 are 19."""
    model = random_qwen2(n_layers=4)
    names = {"fastav": fastav, "model": model, "embeds": torch.randn(1, 198, 48, dtype=torch.float64)}
    exec(OWN_LAYOUT, names)
    [cache] = names["pruning"].values()
    assert [len(kept) for kept in cache.kept()] == [198, 198, 34 + 66, 34 + 66 - 19]


# --- commands


def test_make_targets_exist():
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.M))
    named = set(re.findall(r"\bmake ([a-z-]+)(?=[` \n])", "\n".join([*re.findall(r"`(make [^`]*)`", TEXTS), *COMMANDS]) + "\n"))
    assert {"demo", "test", "test-versions"} <= named <= targets


@pytest.mark.parametrize("command", sorted({c for c in COMMANDS if c.startswith("python ")}))
def test_python_commands_know_their_options(command):
    """Every option that a README gives is in the program's own help."""
    words = shlex.split(command)[1:]
    script = words[:2] if words[0] == "-m" else words[:1]
    script += [word for word in words if word in ("calibrate", "check")]
    help_text = subprocess.run([sys.executable, *script, "--help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    options = [word for word in words if word.startswith("--")]
    assert not [option for option in options if not re.search(rf"{option}\b", help_text)]


# --- files


def tree() -> dict[str, str]:
    """Path -> phrase, from the listing under "What is where" in CONTRIBUTING.md."""
    listing = re.search(r"## What is where\n\n```\n(.*?)```", CONTRIBUTING, re.S)[1]
    found, parents = {}, []
    for line in listing.splitlines():
        indent, name, phrase = re.fullmatch(r"( *)(\S+) {2,}(\S.*)", line).groups()
        parents = parents[: len(indent) // 2]
        found["".join(parents) + name] = phrase
        if name.endswith("/"):
            parents.append(name)
    return found


def test_every_path_of_the_listing_exists():
    assert not [path for path in tree() if not (ROOT / path).exists()]


def test_every_source_file_is_in_the_listing():
    """Of what git tracks: the top level, and every Python file of fastav/ and eval/ in which something happens."""
    done = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        pytest.skip("not a git checkout: what belongs to the project is not known")
    tracked = [path for path in done.stdout.splitlines() if (ROOT / path).is_file()]
    top = {path.partition("/")[0] + "/" * ("/" in path) for path in tracked if not path.startswith(".")}
    sources = {path for path in tracked if path.startswith(("fastav/", "eval/")) and path.endswith(".py")}
    bare = {path for path in sources if path.endswith("/__init__.py") and "import" not in (ROOT / path).read_text()}
    assert (top | sources) - bare - tree().keys() == set()


def test_pictures_and_files_that_the_text_names_exist():
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", README)
    named = re.findall(r"`((?:assets|tests|fastav|eval)/[\w./-]+)`", TEXTS)
    named = [path for path in named if "NAME" not in path]
    assert pictures
    assert not [path for path in [*pictures, *named] if not (ROOT / path).exists()]


# --- figures and settings


def test_flops_table_is_what_the_formulas_give():
    rows = re.findall(r"^\| (\d+) \| (\d+) \| ([\d.]+) \| ([\d.]+) \|$", FOLDERS["fastav/methods"], re.M)
    assert [int(row[0]) for row in rows] == [0, 10, 20, 30]
    for p, published, by_paper, by_gqa in rows:
        sizes = videollama2_lengths(int(p))
        paper, gqa = (100 * flops(sizes, QWEN2_7B) / flops([N] * 28, QWEN2_7B) for flops in (flops.paper_flops, flops.gqa_flops))
        assert (published, by_paper, by_gqa) == (f"{paper:.0f}", f"{paper:.1f}", f"{gqa:.1f}")


def test_the_figure_is_drawn_to_scale():
    """48 blocks are 2,206 tokens; tokens per layer as the formulas above take them."""
    rows = re.findall(r"^layers? (\d+)\S*\s+(█+)  ([\d,]+)", README, re.M)
    sizes = videollama2_lengths(20)
    assert [int(layer) for layer, *_ in rows] == [0, 14, 15, 16, 17, 19, 21, 24, 27]
    for layer, blocks, n in rows:
        assert int(n.replace(",", "")) == sizes[int(layer)]
        assert len(blocks) == round(48 * sizes[int(layer)] / N)


def test_the_readme_is_short():
    assert len(README.splitlines()) <= 180


def test_results_of_the_readme_are_those_of_the_evaluation():
    """Each row of the README's table is the beginning of the same row in eval/README.md, to its FLOPs."""
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in README.splitlines() if re.match(r"\| .*\d\d\.\d", line)]
    there = [[cell.strip() for cell in line.split("|")[1:-1]] for line in FOLDERS["eval"].splitlines() if line.startswith("| ")]
    assert len(rows) == 3 and all(row in [other[:8] for other in there] for row in rows)


def test_spaces_front_matter_agrees_with_the_requirements():
    assert FRONT_MATTER["sdk"] == "gradio"
    assert (ROOT / FRONT_MATTER["app_file"]).is_file()
    assert FRONT_MATTER["sdk_version"] in requirements("requirements.txt")["gradio"].specifier
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert FRONT_MATTER["python_version"].strip('"') in SpecifierSet(project["requires-python"])
    assert FRONT_MATTER["license"] == project["license"].lower()
    assert len(FRONT_MATTER["short_description"]) <= 60  # the Hub's limit


def test_plain_requirements_are_for_any_machine():
    """flash-attn builds from source with nvcc; it may only be asked for by name of its own file."""
    assert "flash-attn" not in requirements("requirements.txt") | requirements("requirements-dev.txt")
    assert list(requirements("requirements-gpu.txt")) == ["flash-attn"]
