"""AVHBench (ICLR 2025, arXiv 2410.18325): hallucination across the modalities, matching, captions.

Three judgement tasks, balanced yes / no, and one of captions. Judgement questions are asked with " Answer yes or no."
added, captions as they are (as kaistmm/AVCD does). The paper's three columns: hallucination pools both directions, and Avg
is the average over questions, not over columns.

Accepted on disk: `AVHBench_v0/{video,json/qa.json}` (the official packing) or `videos/` + `QA.json`.
"""

from __future__ import annotations

from pathlib import Path

from eval.benchmarks import annotations

VISIBLE, HEARD = "Audio-driven Video Hallucination", "Video-driven Audio Hallucination"
MATCHING, CAPTIONING = "AV Matching", "AV Captioning"

TASKS = {VISIBLE: "yes-no", HEARD: "yes-no", MATCHING: "yes-no", CAPTIONING: "caption"}
COLUMNS = {"AV hallucination": (VISIBLE, HEARD), "AV matching": (MATCHING,), "Avg": (VISIBLE, HEARD, MATCHING)}

# Names of an older release, which call a task by the modality asked about. Its "..._only" tasks repeat a question for
# single-modality input: counted here they would weigh twice, so they are refused as unknown.
ALIASES = {"AV Hallucination (Video)": VISIBLE, "AV Hallucination (Audio)": HEARD}


def load(root: Path, name: str) -> annotations.Dataset:
    """The benchmark under `root`. Raises UserError when it is not there or not in the schema."""
    file, videos = annotations.find(root, ("QA.json", "json/qa.json", "json/QA.json", "qa.json"), ("", "AVHBench_v0"))
    questions, sha256 = annotations.read(file, TASKS, ALIASES, {"yes-no": " Answer yes or no."})
    return annotations.Dataset(name, file, sha256, videos, questions, COLUMNS, annotations.wordings(file))
