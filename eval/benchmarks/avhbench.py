"""AVHBench (ICLR 2025, arXiv 2410.18325): hallucination across the modalities, matching, captions.

Three judgement tasks, balanced yes / no, and one of captions. Judgement questions are asked with " Answer yes or no."
added, captions as they are (as kaistmm/AVCD does). The paper's three columns: hallucination pools both directions, and Avg
is the average over questions, not over columns.

Accepted on disk: `AVHBench_v0/{video,json/qa.json}` (the official packing) or `videos/` + `QA.json`.
"""

from __future__ import annotations

from pathlib import Path

from eval.benchmarks import avhbench_schema as schema
from eval.dataset import Dataset
from eval.scorers.caption import Caption
from eval.scorers.yes_no import YesNo

VISIBLE, HEARD = "Audio-driven Video Hallucination", "Video-driven Audio Hallucination"
MATCHING, CAPTIONING = "AV Matching", "AV Captioning"

TASKS = {VISIBLE: YesNo(asked="V"), HEARD: YesNo(asked="A"), MATCHING: YesNo(asked="M"), CAPTIONING: Caption()}
COLUMNS = {"AV hallucination": (VISIBLE, HEARD), "AV matching": (MATCHING,), "Avg": (VISIBLE, HEARD, MATCHING)}
INSTRUCTIONS = dict.fromkeys((VISIBLE, HEARD, MATCHING), " Answer yes or no.")

# Names of an older release, which call a task by the modality asked about. Its "..._only" tasks repeat a question for
# single-modality input: counted here they would weigh twice, so they are refused as unknown.
ALIASES = {"AV Hallucination (Video)": VISIBLE, "AV Hallucination (Audio)": HEARD}


def load(root: Path, name: str) -> Dataset:
    """The benchmark under `root`. Raises UserError when it is not there or not in the schema."""
    file, videos = schema.find(root, ("QA.json", "json/qa.json", "json/QA.json", "qa.json"), ("", "AVHBench_v0"))
    questions, sha256 = schema.read(file, TASKS, ALIASES, INSTRUCTIONS)
    return Dataset(name, file, sha256, questions, TASKS, COLUMNS, schema.mp4(videos))
