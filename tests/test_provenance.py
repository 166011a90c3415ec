"""What a record says of where it came from. Oracles: hashlib on the files, git, importlib.metadata."""

import hashlib
import json
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from test_session import StubAdapter, make_clip

import fastav
from eval import run
from fastav.calibrate import calibrate
from fastav.models.tiny import Tiny
from fastav.session import Session, load

ROOT = Path(__file__).resolve().parents[1]
GOLDEN = ROOT / "tests" / "golden"
CLIP = ROOT / "assets" / "examples" / "dog_car.mp4"
QUESTION = "Is the bell visible in the video?"


def record(session, method="vanilla"):
    return session.answer(make_clip(), QUESTION, method, max_new_tokens=1).to_dict()


def told(adapter):
    """The digest of the weights and the hub's commit, as the adapter's records have them."""
    session = Session(adapter)
    result = session.answer(session.read(CLIP), QUESTION, "vanilla", max_new_tokens=1).to_dict()
    return result.get("weights_sha256"), result.get("checkpoint_commit")


@pytest.fixture
def tiny_copy(tmp_path):
    folder = tmp_path / "tiny"
    shutil.copytree(ROOT / "assets" / "tiny", folder)
    return folder


def test_a_record_names_fastav_libraries_and_python():
    result = record(Session(StubAdapter()))
    assert result.get("fastav", {}).get("version") == fastav.__version__
    for name in ("torch", "transformers", "accelerate", "numpy", "av", "tokenizers"):
        assert result["versions"].get(name) == version(name)
    assert result["versions"]["python"] == sys.version.split()[0]
    assert (result["dtype"], result["attn"]) == ("float32", "sdpa") and "CPU" in result["device"]


def test_a_record_names_the_plan_by_its_bytes(tmp_path):
    path = tmp_path / "plan.json"
    session = Session(StubAdapter())
    calibrate(session, 1, keep=0.5, alpha=0.5, statistic="visible-column").write(path)
    for method in (f"fastav:plan={path}", f"trim+fastav:plan={path},p=30"):
        assert record(session, method).get("plan_sha256") == hashlib.sha256(path.read_bytes()).hexdigest()
    assert record(session, "fastav")["plan_sha256"] is None


@pytest.mark.parametrize("name", ["videollama2.1-av", "video-salmonn-2"])
def test_a_checkpoint_folder_is_told_by_its_files(name):
    folder = GOLDEN / ("videollama2/tiny" if name == "videollama2.1-av" else "video_salmonn2")
    session = load(name, str(folder))
    digest = getattr(session, "provenance", {}).get("weights_sha256")
    assert digest and session.folder == folder


def test_other_weights_have_another_digest_wherever_they_lie(tiny_copy, monkeypatch):
    """The built-in folder, a copy of it, the copy by way of "~", and the copy with another word list in config.json."""
    monkeypatch.setenv("HOME", str(tiny_copy.parent))
    digest, commit = told(Tiny())
    assert digest and commit is None
    assert told(Tiny(str(tiny_copy))) == told(Tiny("~/tiny")) == (digest, None)
    text = (tiny_copy / "config.json").read_text()
    (tiny_copy / "config.json").write_text(text + " ")
    assert told(Tiny(str(tiny_copy)))[0] not in ("", digest)


def test_a_hub_snapshot_names_its_commit(tiny_copy, tmp_path):
    folder = tmp_path / "models--a--b" / "snapshots" / ("0123456789" * 4)
    folder.parent.mkdir(parents=True)
    tiny_copy.rename(folder)
    digest, commit = told(Tiny(str(folder)))
    assert commit == folder.name and digest == told(Tiny())[0]


def test_the_evaluation_writes_it_into_header_and_records(tmp_path):
    assert run.main(["--bench", "avhbench", "--limit", "1", "--method", "vanilla", "--output", str(tmp_path)]) == 0
    header, answer = (json.loads(line) for line in (tmp_path / "records.jsonl").read_text().splitlines())
    for found in (header["header"], answer["result"]):
        assert found.get("fastav", {}).get("version") == fastav.__version__
        assert found["weights_sha256"] and found["versions"]["torch"] == version("torch") and "CPU" in found["device"]


TELL = "import json; from fastav import provenance; print(json.dumps(provenance.fastav()))"


def tell(tree):
    done = subprocess.run([sys.executable, "-c", TELL], cwd=tree, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def git(tree, *arguments):
    identity = ("-c", "user.name=t", "-c", "user.email=t@t", "-c", "commit.gpgsign=false")
    done = subprocess.run(["git", *identity, *arguments], cwd=tree, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_checkout_names_its_commit_and_whether_tracked_files_differ(tmp_path):
    """An untracked file changes nothing; two dirty trees differ in the digest of the source; a wheel inside somebody else's
    repository is of no commit.
    """
    outside, tree = tmp_path / "site", tmp_path / "checkout"
    ignored = shutil.ignore_patterns("__pycache__")
    for place in (outside, tree):
        shutil.copytree(ROOT / "fastav", place / "fastav", ignore=ignored)
    git(tree, "init", "-q")
    git(tree, "add", "fastav")
    git(tree, "commit", "-q", "-m", "one")
    clean, commit = tell(tree), git(tree, "rev-parse", "HEAD")
    assert (clean["version"], clean["commit"]) == (fastav.__version__, commit)
    (tree / "notes.txt").write_text("untracked")
    assert tell(tree) == clean
    digests = {clean["source_sha256"]}
    for text in ("# one\n", "# two\n"):
        with (tree / "fastav" / "engine.py").open("a") as file:
            file.write(text)
        dirty = tell(tree)
        assert dirty["commit"] == commit + "+dirty"
        digests.add(dirty["source_sha256"])
    assert len(digests) == 3
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "somebody else's")
    assert tell(outside) == {**clean, "commit": None}
