"""The evaluation with a stub in the place of the model, for the tests of eval/: a session, a small benchmark, the command."""

import hashlib
import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace

from eval import run
from fastav.errors import UserError
from fastav.methods import parse
from fastav.result import Result

ROOT = Path(__file__).resolve().parents[1]
VISIBLE, HEARD, MATCHING = "Audio-driven Video Hallucination", "Video-driven Audio Hallucination", "AV Matching"
VISIBLE_TEXT, HEARD_TEXT, MATCH_TEXT = (
    "Is the dog visible in the video?",
    "Is the dog making sound in the audio?",
    "Do they match?",
)


def says_no(question, clip_name, method="fastav"):
    """About one in three, others when tokens are removed at random."""
    return sum(map(ord, question + clip_name)) % 3 == ("=random" in method)


class StubResult(Result):
    """With what a session adds: where the answer came from."""

    def to_dict(self):
        plan = self.method.partition("plan=")[2].partition(",")[0]
        digest = hashlib.sha256(Path(plan).read_bytes()).hexdigest() if plan else None
        return {**super().to_dict(), "plan_sha256": digest}


@dataclass
class StubSession:
    """Says `says`, but no where `says_no` and the method prunes. A clip file's text says what happens to it; `trouble` is what is
    done before a question with that word in it is answered.
    """

    checkpoint: str = "stub-weights"
    says: str = "Yes."
    delay_sec: float = 0.0
    model_name: str = "tiny"
    dtype: str = "float32"
    device_name: str = "stub"
    versions: dict = field(default_factory=dict)
    trouble: dict = field(default_factory=dict)
    at: Path | None = None
    device = SimpleNamespace(type="cpu")

    def __post_init__(self):
        self.calls, self.n_reads, self.n_freed = [], 0, 0

    @property
    def folder(self):
        return self.at or Path(self.checkpoint)

    @property
    def provenance(self):
        from fastav import provenance

        return {
            "fastav": provenance.fastav(),
            "weights_sha256": provenance.weights_sha256(self.folder),
            "checkpoint_commit": provenance.hub_commit(self.folder),
            "device": self.device_name,
            "dtype": self.dtype,
            "attn": "sdpa",
            "versions": self.versions,
        }

    def canonical(self, method):
        return str(parse(method, 8))

    def free(self):
        self.n_freed += 1

    def read(self, path):
        self.n_reads += 1
        if not path.is_file():
            raise UserError(f"{path.name}: no such file")
        if path.read_text() == "broken":
            raise UserError(f"{path.name}: not a media file")
        sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
        return SimpleNamespace(name=path.name, has_audio=path.read_text() != "silent film", sha256=sha256)

    def answer(self, clip, question, method="fastav", *, fvcore=False, peak=False, max_new_tokens=None):
        self.calls.append((clip.name, question, method, fvcore, peak))
        time.sleep(self.delay_sec)
        for word, do in self.trouble.items():
            if word in question:
                do()
        if "zebra" in question:
            raise UserError("unknown word 'zebra'")
        pruned = method != "vanilla"
        answer = "no" if pruned and says_no(question, clip.name, method) else self.says
        n_last = 9 - int(method.partition("p=")[2].partition(",")[0]) // 10 if pruned else 9
        relative = 60.0 + len(question) % 7 if pruned else 100.0
        return StubResult(
            answer=answer,
            question=question,
            model="tiny",
            checkpoint=self.checkpoint,
            method=self.canonical(method),
            clip_name=clip.name,
            clip_sha256=clip.sha256,
            clip_duration_sec=4.0,
            has_video=True,
            has_audio=clip.has_audio,
            notes=(),
            token_runs=(("text", -1, 9),),
            grids=(),
            layers_seen=(8,) * 9,
            lengths=(*[9] * 4, *[n_last] * 4),
            tokens_before={"text": 9},
            tokens_after={"text": 9},
            flops=1e6 * relative,
            flops_paper=1e6,
            flops_fvcore=1e6 * relative if fvcore else None,
            flops_relative_percent=relative,
            flops_paper_relative_percent=relative,
            n_new_tokens=1,
            encode_sec=None,
            prefill_sec=time.perf_counter() % 1,
            per_token_sec=None,
            total_sec=0.1,
            n_repeats=1,
            kv_bytes=2_000_000,
            peak_bytes=3_000_000 if peak else None,
            total_bytes=None,
            device=self.device_name,
            dtype=self.dtype,
            attn="sdpa",
            versions=self.versions,
        )


def stub(monkeypatch, **settings):
    """A StubSession that the evaluation will find in the place of a loaded model."""
    session = StubSession(**settings)
    module = ModuleType("fastav.session")
    module.load = lambda *args, **kwargs: session
    monkeypatch.setitem(sys.modules, "fastav.session", module)
    return session


def record(clip, task, text, label, **more):
    return {"video_id": clip, "task": task, "text": text, "label": label, **more}


def small_set(root, file="QA.json", videos="videos", n_clips=4):
    """Per clip: visible yes, visible no, heard yes, matching yes / no in turn, a caption."""
    records = []
    for i in range(n_clips):
        clip = f"{i:05d}"
        records += [
            record(clip, VISIBLE, VISIBLE_TEXT, "Yes"),
            record(clip, VISIBLE, "Is the car visible in the video?", "No"),
            record(clip, HEARD, HEARD_TEXT, "Yes"),
            record(clip, "AV Matching", MATCH_TEXT, "Yes" if i % 2 else "No"),
            record(clip, "AV Captioning", "Describe it.", "a red dog is visible, and a bell is heard."),
        ]
        path = root / videos / f"{clip}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("clip")
    write(root, records, file)
    return root


def write(root, records, file="QA.json"):
    (root / file).parent.mkdir(parents=True, exist_ok=True)
    (root / file).write_text(json.dumps(records))


def evaluate(data, output, *more):
    return run.main(["--bench", "avhbench", "--data-root", str(data), "--output", str(output), *map(str, more)])


def document(capsys):
    return json.loads(capsys.readouterr().out.splitlines()[-1])


def lasting(document):
    """Without measured seconds and peaks."""
    return json.loads(
        json.dumps(document),
        object_pairs_hook=lambda pairs: {k: v for k, v in pairs if not k.endswith("_sec") and not k.startswith("peak")},
    )


def method(document, i):
    return document["methods"][i]


DRIVER = """
import sys
sys.path[:0] = [{root!r}, {tests!r}]
from types import ModuleType
import evaluating
module = ModuleType("fastav.session")
module.load = lambda *args, **kwargs: evaluating.StubSession(delay_sec={delay})
sys.modules["fastav.session"] = module
from eval import run
sys.exit(run.main(sys.argv[1:]))
"""
