"""Does a test notice when one line of the code is wrong? `make mutants`; not collected by pytest.

Each mutant is one line of one file, replaced in a temporary copy of the tree, and the test file that must then fail. A mutant that
survives is a hole in the tests: write the missing test, do not remove the mutant.

    python tests/mutants/mutants.py             all of them
    python tests/mutants/mutants.py NAME ...    those whose name contains one of the words
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("fastav", "eval", "tests", "app.py", "pyproject.toml")
LINKED = ("assets",)
TIMEOUT_SEC = 120


class Mutant(NamedTuple):
    name: str
    file: str
    old: str  # occurs exactly once in the file
    new: str
    test: str  # the test file that must turn red


MUTANTS = (
    Mutant(
        "a plan's threshold itself is pruned", "fastav/plan.py",
        "influence >= np.float32(self.threshold)", "influence > np.float32(self.threshold)", "tests/test_methods.py",
    ),
    Mutant(
        "top and low swapped in the global rule", "fastav/methods/fastav.py",
        '"high" if self.rule.startswith("top") else "low"', '"low" if self.rule.startswith("top") else "high"', "tests/test_methods.py",
    ),
    Mutant(
        "top and low swapped in the fine rule", "fastav/methods/fastav.py",
        '"high" if self.fine == "top" else "low"', '"low" if self.fine == "top" else "high"', "tests/test_methods.py",
    ),
    Mutant(
        "top and low swapped in the engine", "fastav/engine.py",
        "-score if high else score", "score if high else -score", "tests/test_engine.py",
    ),
    Mutant(
        "global pruning one layer late", "fastav/methods/fastav.py",
        "cuts = {start - 1: tuple", "cuts = {start: tuple", "tests/test_methods.py",
    ),
    Mutant(
        "global pruning one layer early", "fastav/methods/fastav.py",
        "cuts = {start - 1: tuple", "cuts = {start - 2: tuple", "tests/test_methods.py",
    ),
    Mutant(
        "fine pruning starts one layer late", "fastav/methods/fastav.py",
        "for layer in range(start, n_layers - 1):", "for layer in range(start + 1, n_layers - 1):", "tests/test_methods.py",
    ),
    Mutant(
        "p percent rounded up", "fastav/methods/fastav.py",
        "n = n_free * self.p // 100", "n = -(-n_free * self.p // 100)", "tests/test_methods.py",
    ),
    Mutant(
        "text unprotected", "fastav/methods/fastav.py",
        'layout.media if self.protect == "text" else', 'layout.media if self.protect == "last" else', "tests/test_methods.py",
    ),
    Mutant(
        "last token unprotected in the fine stage", "fastav/methods/fastav.py",
        "free[-1] = False  #", "free[0] = False  #", "tests/test_methods.py",
    ),
    Mutant(
        "last token unprotected in the global stage", "fastav/methods/fastav.py",
        "media[-1] = False", "media[0] = False", "tests/test_methods.py",
    ),
    Mutant(
        "one stream globally pruned", "fastav/methods/fastav.py",
        'if self.rule == "all" or layout.single_stream:', 'if self.rule == "all":', "tests/test_methods.py",
    ),
    Mutant(
        "random rule ignores the request", "fastav/methods/fastav.py",
        r'f"{seed}\0{request_id}\0{stage}"', r'f"{seed}\0{stage}"', "tests/test_methods.py",
    ),
    Mutant(
        "first-audio rule keeps one too many", "fastav/layout.py",
        "(layout.chunk < n)", "(layout.chunk <= n)", "tests/test_layout.py",
    ),
    Mutant(
        "first-positions rule keeps one too many", "fastav/layout.py",
        "(np.arange(len(layout)) < n)", "(np.arange(len(layout)) <= n)", "tests/test_layout.py",
    ),
    Mutant(
        "kept rows renumbered in RoPE", "fastav/engine.py",
        "torch.take_along_dim(t, positions[..., None].to(t.device), -2)", "t[..., : positions.shape[-1], :]", "tests/test_engine.py",
    ),
    Mutant(
        "score of the first query", "fastav/engine.py",
        "rotated_query(layer, hidden[:, -1:], tuple", "rotated_query(layer, hidden[:, :1], tuple", "tests/test_engine.py",
    ),
    Mutant(
        "score's query rotated as the first", "fastav/engine.py",
        "tuple(t[..., -1:, :] for t in position_embeddings)", "tuple(t[..., :1, :] for t in position_embeddings)", "tests/test_engine.py",
    ),
    Mutant(
        "score from the next layer's input", "fastav/engine.py",
        'entered = args[0] if args else kwargs["hidden_states"]', "entered = hidden", "tests/test_engine.py",
    ),
    Mutant(
        "heads by maximum, not mean", "fastav/engine.py",
        ".softmax(-1).mean((1, 2))", ".softmax(-1).amax((1, 2))", "tests/test_engine.py",
    ),
    Mutant(
        "of equal scores the earlier leaves", "fastav/engine.py",
        "ranked.sort(dim=-1, descending=True, stable=True)",
        "(ranked + 1e-6 * torch.arange(ranked.shape[-1])).sort(dim=-1, descending=True)", "tests/test_engine.py",
    ),
    Mutant(
        "kept tokens in the order of their scores", "fastav/engine.py",
        ".indices[:, :n_kept].sort(dim=-1).values", ".indices[:, :n_kept]", "tests/test_engine.py",
    ),
    Mutant(
        "decode mask not gathered", "fastav/engine.py",
        '["attention_mask"] = _columns(mask.to(hidden.device), seen)', '["attention_mask"] = mask', "tests/test_engine.py",
    ),
    Mutant(
        "prefill mask rows not gathered", "fastav/engine.py",
        "torch.take_along_dim(mask, positions[:, None, :, None], 2)", "mask[:, :, : positions.shape[-1]]", "tests/test_engine.py",
    ),
    Mutant(
        "pads take part in the score", "fastav/engine.py",
        "if pad is not None:", "if False:", "tests/test_engine.py",
    ),
    Mutant(
        "unplanned length goes unnoticed", "fastav/engine.py",
        "get_seq_length() == 0 and n != planned:", "get_seq_length() == 0 and n < planned:", "tests/test_engine.py",
    ),
    Mutant(
        "position ids reach pruned layers", "fastav/engine.py",
        'narrowed = {"position_ids": None}', "narrowed = {}", "tests/test_engine.py",
    ),
    Mutant(
        "hooks added twice", "fastav/engine.py",
        "layer._fastav_installed = True", "layer._fastav_installed = False", "tests/test_engine.py",
    ),
    Mutant(
        "fused attention left out of the FLOPs", "fastav/cost.py",
        '.set_op_handle("aten::scaled_dot_product_attention", _attention_flops)', "", "tests/test_cost.py",
    ),
    Mutant(
        "paper's formula with a gated MLP", "fastav/cost.py",
        "+ 2 * n * d * m for n in lengths)", "+ 3 * n * d * m for n in lengths)", "tests/test_cost.py",
    ),
    Mutant(
        "KV bytes with generated tokens", "fastav/cost.py",
        "t[..., :n, :].numel()", "t.numel()", "tests/test_session.py",
    ),
    Mutant(
        "rollout multiplied from the wrong side", "fastav/rollout.py",
        "torch.addmm(previous, attention, previous,", "torch.addmm(previous, previous, attention,", "tests/test_rollout.py",
    ),
    Mutant(
        "rollout's weights swapped", "fastav/rollout.py",
        "beta=1 - alpha, alpha=alpha)", "beta=alpha, alpha=1 - alpha)", "tests/test_rollout.py",
    ),
    Mutant(
        "another clip answered from the last one's features", "fastav/session.py",
        "self._encoded is None or self._encoded[0] != clip.sha256", "self._encoded is None", "tests/test_session.py",
    ),
    Mutant(
        "time per token from seven gaps", "fastav/session.py",
        "if len(run.seconds) > MIN_GAPS else", "if len(run.seconds) >= MIN_GAPS else", "tests/test_session.py",
    ),
    Mutant(
        "the frame after the one that is shown", "fastav/decode.py",
        "while stamp < target and", "while stamp <= target and", "tests/test_media.py",
    ),
    Mutant(
        "pictures turned the wrong way", "fastav/decode.py",
        "np.rot90(picture, quarter_turns)", "np.rot90(picture, -quarter_turns)", "tests/test_media.py",
    ),
    Mutant(
        "stereo summed, not averaged", "fastav/decode.py",
        "samples.mean(axis=0)", "samples.sum(axis=0)", "tests/test_media.py",
    ),
    Mutant(
        "no found inside another word", "eval/scoring.py",
        """r"(?<!\w)(?<!\w['-]){}(?!\w)(?!['-]\w)\"""", """r"{}\"""", "tests/test_scoring.py",
    ),
)


def main(words: list[str]) -> int:
    chosen = [m for m in MUTANTS if not words or any(word in m.name for word in words)]
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        copy_tree(tree)
        for test in sorted({m.test for m in chosen}):
            red, seconds, output = run(tree, test)
            print(f"{'unchanged code':<44} {test:<28} {'RED' if red else 'green'} {seconds:5.1f} s", flush=True)
            if red:
                print(f"{output}\n{test} fails without any mutant, so it proves nothing")
                return 1
        survivors = [m.name for m in chosen if not killed(tree, m)]
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} mutants turned their test red" + "".join(f"\nsurvived: {n}" for n in survivors))
    return bool(survivors)


def killed(tree: Path, mutant: Mutant) -> bool:
    """Whether the mutant's test file fails, as a line of the table."""
    file = tree / mutant.file
    source = file.read_text()
    if source.count(mutant.old) != 1 or "\n" in mutant.old + mutant.new:
        raise SystemExit(f"{mutant.name!r} no longer fits: {mutant.old!r} occurs {source.count(mutant.old)} times in {mutant.file}")
    file.write_text(source.replace(mutant.old, mutant.new))
    red, seconds, _ = run(tree, mutant.test)
    file.write_text(source)
    print(f"{mutant.name:<44} {mutant.test:<28} {'red' if red else 'SURVIVED'} {seconds:5.1f} s", flush=True)
    return red


def run(tree: Path, test: str) -> tuple[bool, float, str]:
    """(a test failed, seconds, output) of one test file in the copy, up to its first failure."""
    began = time.perf_counter()
    # No bytecode files: one written for a mutant of the same length and second would be taken for the original's.
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", f"--timeout={TIMEOUT_SEC}", test]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    if done.returncode not in (0, 1, 2):  # green, red, or not even importable: everything else is no verdict
        raise SystemExit(f"pytest ended with code {done.returncode} on {test}\n{done.stdout}{done.stderr}")
    return done.returncode != 0, time.perf_counter() - began, done.stdout


def copy_tree(target: Path) -> None:
    for name in COPIED:
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, target / name, ignore=shutil.ignore_patterns("__pycache__", "runs"))
        elif source.exists():
            shutil.copy2(source, target / name)
    for name in LINKED:
        (target / name).symlink_to(ROOT / name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
