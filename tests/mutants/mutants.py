"""Does a test notice when one line of the code is wrong? `make mutants`; not collected by pytest.

Each mutant is one line of one file, replaced in a temporary copy of the tree, and the test file that must then fail. A mutant
that survives is a hole in the tests: write the missing test, do not remove the mutant.

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

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("fastav", "eval", "tests", "app.py", "pyproject.toml", "requirements.txt")
LINKED = ("assets",)
TIMEOUT_SEC = 120

# (file, test file that must turn red) -> (name, text that occurs exactly once in the file, what it becomes)
MUTANTS = {
    ("fastav/plan.py", "tests/test_methods.py"): [
        (
            "a plan's threshold itself is pruned",
            "influence >= np.float32(self.threshold)",
            "influence > np.float32(self.threshold)",
        ),
        ("a plan of another run is applied", "if made and run and made != run]", "if made and run and made is run]"),
        ("half a plan is left where it cannot be written", 'part = path.with_name(f".{os.getpid()}.plan")', "part = path"),
    ],
    ("fastav/methods/cut.py", "tests/test_methods.py"): [
        ("a layer beyond the last passes", "if not each.low <= layer < n_layers:", "if layer > n_layers:"),
        ("a share is rounded down", "return round(self.keep * int(", "return int(self.keep * int("),
        ("the last token may leave", "free[-1] = False", "free[0] = False"),
    ],
    ("fastav/methods/setting.py", "tests/test_methods.py"): [
        ("a number beyond its range passes", "value > self.high)", "value > 2 * self.high)"),
        ("any word is a choice", "if self.choices and not any(_is(value, choice) for choice in self.choices):", "if False:"),
        ("an optional number stays text", "if kind is not NoneType), hint)", "if kind is NoneType), hint)"),
    ],
    ("fastav/methods/random.py", "tests/test_methods.py"): [
        ("random rule ignores the request", r'f"{seed}\0{request_id}\0{stage}"', r'f"{seed}\0{stage}"'),
    ],
    ("fastav/methods/stride.py", "tests/test_methods.py"): [
        ("stride begins at the first token", "(2 * np.arange(n_kept) + 1)", "(2 * np.arange(n_kept))"),
    ],
    ("fastav/methods/divprune.py", "tests/test_methods.py"): [
        ("the first pick is no outlier", "if picked else distance", "if picked else torch.minimum(nearest, distance)"),
        ("a kept token is taken twice", "nearest.index_fill(0, torch.cat(picked), -torch.inf)", "nearest"),
        ("blocks compare a token with itself", "distance.diagonal(begin)", "distance.diagonal()"),
    ],
    ("fastav/methods/scores.py", "tests/test_scores.py"): [
        ("groups are ranked as one", "torch.searchsorted(grouped, grouped)", "0"),
        ("the question's first token asks alone", "self.question).mean(1)", "self.question)[:, 0]"),
    ],
    ("fastav/seen.py", "tests/test_scores.py"): [
        (
            "a question sees what follows it",
            "future = positions[:, None] > rows[..., None]",
            "future = positions[:, None] > rows[..., -1:, None]",
        ),
        ("the next layer is this one", 'layer = self.following if weights == "next" else self.layer', "layer = self.layer"),
    ],
    ("fastav/steps.py", "tests/test_scores.py"): [
        ("all rows have the first row's score", "step.score[0 if shared else row].compute", "step.score[0].compute"),
        ("merged rows are lost", "each if merged is None else merged", "each"),
    ],
    ("fastav/methods/text.py", "tests/test_methods.py"): [
        ("any alphabet's digits are a number", 're.fullmatch(r"-?[0-9]{1,18}", text)', r're.fullmatch(r"-?\d{1,18}", text)'),
        ("the later of two values wins", "if key in values:", "if False:"),
    ],
    ("fastav/methods/trim.py", "tests/test_methods.py"): [
        ("trim keeps the padding and drops the rest", "return ~layout.audio_padding", "return layout.audio_padding"),
        ("an untrimmed prompt passes unnoticed", "if layout.audio_padding.any():", "if layout.audio_padding.all():"),
    ],
    ("fastav/models/videollama2/beats.py", "tests/test_videollama2.py"): [
        ("the position gate is off by one", "a * (b * self.grep_a - 1) + 2", "a * (b * self.grep_a - 1) + 1"),
        ("no deep norm", "self.alpha * x + self.self_attn(x, bias)", "x + self.self_attn(x, bias)"),
    ],
    ("fastav/models/videollama2/inputs.py", "tests/test_videollama2.py"): [
        ("the last piece of sound ends with the track", "Fraction(0)) / N_PIECES", "Fraction(0)) / (N_PIECES - 1)"),
    ],
    ("fastav/models/video_salmonn2/order.py", "tests/test_video_salmonn2.py"): [
        ("one padding token counts as sound", "(groups < n_sounding).sum(1)", "(groups <= n_sounding).sum(1)"),
        ("front of the sound rounded to tokens", "round(real_time_sec * 50)", "round(real_time_sec * 2)"),
    ],
    ("fastav/check.py", "tests/test_check.py"): [
        ("missing keys are not told", "sorted(needed - set(found))", "sorted(set())"),
    ],
    ("fastav/models/weights.py", "tests/test_weights.py"): [
        ("missing keys pass", "sorted(set(expected) - set(times))", "()"),
        ("unknown keys pass", "in used.items() if name not in expected)", "in used.items() if False)"),
        (
            "a pickle may run code",
            "map_location=device, weights_only=True, mmap=True",
            "map_location=device, weights_only=False, mmap=True",
        ),
        ("weights come as float32", "parameter.data = parameter.data.to(dtype)", "parameter.data = parameter.data.float()"),
    ],
    ("fastav/models/placement.py", "tests/test_weights.py"): [
        ("weights that cannot fit are read", "if needed > free:", "if needed < 0:"),
        ("nothing is left free for the run", "n - max(n // 10, 1_500_000_000)", "n"),
        ("the first card is filled before the second", "for _ in range(10):", "for _ in range(0):"),
        ("a layer lies on two cards", "no_split_module_classes=whole", "no_split_module_classes=[]"),
    ],
    ("fastav/models/device.py", "tests/test_adapter.py"): [
        ("cuda is a GPU without an index", 'return torch.device("cuda", index)', "return device"),
        ("Turing multiplies in bfloat16", "AMPERE = (8, 0)", "AMPERE = (7, 5)"),
        ("machine code runs on any newer GPU", '(kind == "compute" or int(a) == major)', "True"),
        ("a map asks the prompt's GPU alone", "places = range(", "places = () and range("),
    ],
    ("fastav/methods/fastav.py", "tests/test_methods.py"): [
        (
            "top and low swapped in the global rule",
            '"high" if self.rule.startswith("top") else "low"',
            '"low" if self.rule.startswith("top") else "high"',
        ),
        (
            "top and low swapped in the fine rule",
            '"high" if self.fine == "top" else "low"',
            '"low" if self.fine == "top" else "high"',
        ),
        ("global pruning one layer late", "cuts = {start - 1: tuple", "cuts = {start: tuple"),
        ("global pruning one layer early", "cuts = {start - 1: tuple", "cuts = {start - 2: tuple"),
        (
            "fine pruning starts one layer late",
            "for layer in range(start, n_layers - 1):",
            "for layer in range(start + 1, n_layers - 1):",
        ),
        ("p percent rounded up", "n = n_free * self.p // 100", "n = -(-n_free * self.p // 100)"),
        ("text unprotected", 'layout.media if self.protect == "text" else', 'layout.media if self.protect == "last" else'),
        ("last token unprotected in the fine stage", "free[-1] = False  #", "free[0] = False  #"),
        ("one stream globally pruned", 'if self.rule == "all" or layout.single_stream:', 'if self.rule == "all":'),
    ],
    ("fastav/engine.py", "tests/test_engine.py"): [
        (
            "kept rows renumbered in RoPE",
            "torch.take_along_dim(t, positions[..., None].to(t.device), -2)",
            "t[..., : positions.shape[-1], :]",
        ),
        ("hooks added twice", "layer._fastav_installed = True", "layer._fastav_installed = False"),
        ("position ids reach pruned layers", 'narrowed["position_ids"] = None', 'narrowed.pop("position_ids", None)'),
        ("decode mask not gathered", '["attention_mask"] = _columns(mask.to(hidden.device), seen)', '["attention_mask"] = mask'),
        (
            "prefill mask rows not gathered",
            "torch.take_along_dim(mask, positions[:, None, :, None], 2)",
            "mask[:, :, : positions.shape[-1]]",
        ),
        ("unplanned length goes unnoticed", "get_seq_length() == 0 and n != planned:", "get_seq_length() == 0 and n < planned:"),
    ],
    ("fastav/steps.py", "tests/test_engine.py"): [
        ("top and low swapped", "-score if high else score", "score if high else -score"),
        (
            "of equal scores the earlier leaves",
            "ranked.sort(dim=-1, descending=True, stable=True)",
            "(ranked + 1e-6 * torch.arange(ranked.shape[-1])).sort(dim=-1, descending=True)",
        ),
        ("kept tokens in the order of their scores", ".indices[:, :n_kept].sort(dim=-1).values", ".indices[:, :n_kept]"),
    ],
    ("fastav/seen.py", "tests/test_engine.py"): [
        ("score of the first query", "asking, cos_sin = hidden[:, -1:], tuple", "asking, cos_sin = hidden[:, :1], tuple"),
        (
            "score's query rotated as the first",
            "tuple(t[..., -1:, :] for t in self.cos_sin)",
            "tuple(t[..., :1, :] for t in self.cos_sin)",
        ),
        (
            "score from the layer's output",
            "layer, hidden, keys = self.layer, self.entered, self.keys",
            "layer, hidden, keys = self.layer, self.hidden, self.keys",
        ),
        ("pads take part in the score", "unseen = None if self.pad is None else", "unseen = None if self is not None else"),
    ],
    ("fastav/decoder.py", "tests/test_engine.py"): [
        ("heads by maximum, not mean", ".softmax(-1).mean((1, 2))", ".softmax(-1).amax((1, 2))"),
    ],
    ("fastav/seen.py", "tests/test_decoder.py"): [
        ("any layer counts as proven", 'if not getattr(self.layer, "_fastav_proven", False):', "if False:"),
    ],
    ("fastav/engine.py", "tests/test_scores.py"): [
        (
            "the next position is that of what was kept",
            "return n + self.n_tokens - self.lengths[0] if n and layer_idx == 0 else n",
            "return n",
        ),
    ],
    ("fastav/engine.py", "tests/test_decoder.py"): [
        (
            "the cache is found by one name alone",
            "for value in (*kwargs.values(), *args) if",
            "for value in (kwargs.get('cache'),) if",
        ),
        (
            "arguments by position are not seen",
            "{**dict(zip(names, args, strict=False)), **kwargs}",
            "{'hidden_states': args[0], **kwargs}",
        ),
        (
            "an installed model is told to install",
            "if not any(model.config is self._config for model in _INSTALLED):",
            "if True:",
        ),
    ],
    ("fastav/decoder.py", "tests/test_decoder.py"): [
        ("keys without rotation pass", "_KEY_TOLERANCE * cached.norm():", "100 * cached.norm():"),
        ("layers without a cache pass", 'or "Cache" in str(parameter.annotation):', 'or name == "hidden_states":'),
        ("windows pass", "if type(held) is not DynamicLayer:", "if not isinstance(held, DynamicLayer):"),
    ],
    ("fastav/versions.py", "tests/test_versions.py"): [
        ("an untried version passes", "if specifier.contains(version, prereleases=True):", "if version:"),
    ],
    ("fastav/layout.py", "tests/test_layout.py"): [
        ("first-audio rule keeps one too many", "(layout.audio_index < n)", "(layout.audio_index <= n)"),
        ("first-positions rule keeps one too many", "(np.arange(len(layout)) < n)", "(np.arange(len(layout)) <= n)"),
    ],
    ("fastav/cost.py", "tests/test_cost.py"): [
        ("fused attention left out of the FLOPs", '.set_op_handle("aten::scaled_dot_product_attention", _attention_flops)', ""),
        ("paper's formula with a gated MLP", "+ 2 * n * d * m for n in lengths)", "+ 3 * n * d * m for n in lengths)"),
        ("the clock is of the current GPU", "event.record(torch.cuda.current_stream(self.device))", "event.record()"),
        (
            "the profiler's lines come out",
            r're.sub(rb"(USDT:|ERROR: External init callback)[^\n]*\n", b"", held.read())',
            "held.read()",
        ),
        ("stderr of other threads is lost", "rest = rest[os.write(2, rest) :]", 'rest = b""'),
    ],
    ("fastav/cost.py", "tests/test_session.py"): [
        ("KV bytes with generated tokens", "t[..., :n, :].numel()", "t.numel()"),
    ],
    ("fastav/rollout.py", "tests/test_rollout.py"): [
        (
            "rollout multiplied from the wrong side",
            "torch.addmm(previous, attention, previous,",
            "torch.addmm(previous, previous, attention,",
        ),
        ("uniform rows see what comes later", "np.arange(1, n + 1))[::-1])[::-1]", "np.arange(1, n + 1)))"),
        ("rollout's weights swapped", "beta=1 - alpha, alpha=alpha)", "beta=alpha, alpha=1 - alpha)"),
    ],
    ("fastav/session.py", "tests/test_calibrate.py"): [
        ("calibration places all tokens on a line", 'if name == "position_ids"}', 'if name == "nothing"}'),
        ("calibration on a clip without sound", "if inputs.layout.single_stream:", "if False:"),
    ],
    ("fastav/rollout.py", "tests/test_calibrate.py"): [
        ("more clips than asked for", "if len(found) == n:", "if len(found) > n:"),
    ],
    ("fastav/run.py", "tests/test_session.py"): [
        ("a holder waits for itself", "if self in _INSIDE.get():", "if False:"),
    ],
    ("fastav/session.py", "tests/test_session.py"): [
        (
            "the trace of a trimmed prompt is not mapped back",
            "request.entered[list(k)]",
            "np.array(list(k))",
        ),
        ("a trimmed prompt is compared with itself", "full = [len(layout)] * self.n_layers", "full = [sizes[0]] * self.n_layers"),
        (
            "another clip answered from the last one's features",
            "self._encoded is None or self._encoded[0] is not clip",
            "self._encoded is None",
        ),
        ("features are known by the file's hash", "self._encoded[0] is not clip", "self._encoded[0].sha256 != clip.sha256"),
        ("time per token from seven gaps", "if len(run.seconds) > MIN_GAPS else", "if len(run.seconds) >= MIN_GAPS else"),
    ],
    ("fastav/clip/decode.py", "tests/test_media.py"): [
        ("the frame after the one that is shown", "while stamp < target and", "while stamp <= target and"),
        ("pictures turned the wrong way", "np.rot90(picture, quarter_turns)", "np.rot90(picture, -quarter_turns)"),
        ("stereo summed, not averaged", "samples.mean(axis=1)", "samples.sum(axis=1)"),
        ("channels taken for samples", ".reshape(-1, piece.layout.nb_channels)", ".reshape(piece.layout.nb_channels, -1).T"),
        ("planes counted beyond their end", 'av.AudioResampler("flt", frame.layout,', 'av.AudioResampler("fltp", frame.layout,'),
        ("memory taken for the rest of a cut mp3", "while len(block := sound.read(_BLOCK,", "for block in (sound.blocks(_BLOCK,"),
        ("an mpg's own times believed", 'even = container.format.name == "mpeg"', "even = False"),
        ("a transport stream searched by time", '_SEARCHED = ("mpegts", "mpeg")', '_SEARCHED = ("mpeg",)'),
        ("frames before an mpg's first key frame counted", "or (even and not keys)", "or False"),
        ("streams that turn up late end in an error", "except (FFmpegError, IndexError):", "except FFmpegError:"),
        ("every key frame tried in turn", "steps = [(1 << i) - 1 for i in range(n.bit_length() + 1)]", "steps = range(n)"),
        ("pictures and playlists opened", "container_options=options, ", ""),
        ("joined recordings not told", "restarts |= latest", "restarts &= latest"),
    ],
    ("fastav/clip/streams.py", "tests/test_media.py"): [
        ("samples that are no numbers kept", "np.where(is_sound, piece, np.float32(0))", "piece"),
        ("no limit to the length of a sound", "limits.check_length(n / rate)", "limits.check_length(0)"),
        ("no limit to the silence before a sound", "limits.check_length(late_sec + n / rate)", "limits.check_length(0)"),
    ],
    ("fastav/clip/limits.py", "tests/test_media.py"): [
        ("no limit to the height of a picture", "if width * height > MAX_PIXELS:", "if width > MAX_PIXELS:"),
        ("sounds of one sample per second", "SAMPLE_RATES = (1_000, 768_000)", "SAMPLE_RATES = (1, 768_000)"),
    ],
    ("fastav/clip/read.py", "tests/test_media.py"): [
        ("a late sound at the start", "np.zeros(-start, np.float32)", "np.zeros(0, np.float32)"),
        ("an early sound whole", "audio = heard[start:] if", "audio = heard if"),
    ],
    ("fastav/clip/child.py", "tests/test_child.py"): [
        ("a silent child waited for", "watch.start()", "pass"),
        ("no limit to the child's memory", "resource.setrlimit(resource.RLIMIT_DATA, (max_bytes, max_bytes))", "pass"),
        ("prints between the answers", "os.dup2(silence, 1)", "pass"),
        ("the child left unburied", "process.communicate()  # closes", "pass  # closes"),
    ],
    ("eval/yes_no.py", "tests/test_yes_no.py"): [
        ("no found inside another word", r'"[a-z0-9]+(?:', r'"no|[a-z0-9]+(?:'),
        ("a no before a noun is an answer", 'if word == "no" and kind(after) in _AFTER_AN_ANSWER:', 'if word == "no":'),
        ("an explanation cannot contradict its answer word", "and reader.statements[0] != said[0]", "and False"),
        (
            "a perhaps after the answer goes unread",
            "                    answers, statements = [], []",
            "                    pass",
        ),
        ("a negation outlives its verb", 'elif k == "verb" and used and not held:', "elif False:"),
        ("a negation ends at its that", "held = used", "held = False"),
        ("two negations are one", "denied = not denied", "denied = True"),
        ("no mismatch means no thing", 'if any(letter == "M" for letter, _ in claims):', "if False:"),
        ("a claim is not turned by false", 'no != _odd(kinds, "false")', "no"),
        ("a list is read as clauses", "if listed and _is_open(clauses[-1][1]):", "if False:"),
        ("the end of a list is no part of it", "        if listed and _is_open(part):", "        if False:"),
        ("a pronoun stands for the question's noun", 'elif "it" not in kinds and (first', "elif (first"),
        ("another dog is the dog", 'k == "other" and word', 'k == "never" and word'),
        ("a sound of nobody's counts", "if self.ours and (self.owned or negative) and", "if self.ours and"),
        ("there is no dog tells of sight alone", '("VA" if negative or self', '("VA" if self'),
        ("the place of a thing is its subject", 'place = k == "place" or', "place = False and"),
        ("a word of the lexicon is never the noun", "next((i + (w in articles) for", "next((i for"),
    ],
    ("eval/yes_no_words.py", "tests/test_yes_no.py"): [
        ("nouns have one number", "not _numbers(a).isdisjoint(_numbers(b))", "a == b"),
        ("a question read as an answer", r"[^.!?;:\n]*\?", r"[^.!?;:\n]*\?\?"),
        ("not sure of something else", 'r"(?! (?:what|which|who|', 'r"(?! (?:who|'),
    ],
    ("fastav/page/request.py", "tests/test_app.py"): [
        ("a visitor names a file", "if each.file and getattr(", "if False and getattr("),
        (
            "a path reaches the text form",
            're.fullmatch(r"[a-z0-9_.:=,+()-]{1,200}", text)',
            're.fullmatch(r"[^<>]{1,200}", text)',
        ),
        ("the page's limits are the method's", "each.check(getattr(inner, each.name))", "each.check(None)"),
    ],
    ("fastav/page/sessions.py", "tests/test_app.py"): [
        ("a visitor loads any model", "if name not in self.offered:", "if name not in models.names():"),
        (
            "the operator's checkpoint goes to every model",
            "self.given.checkpoint if name == self.given.model else None",
            "self.given.checkpoint",
        ),
    ],
    ("fastav/page/gpu.py", "tests/test_app.py"): [
        ("a user's mistake is raised on the far side", "except UserError as error:", "except UserWarning as error:"),
    ],
    ("fastav/page/command.py", "tests/test_serving.py"): [
        ("a busy port is found when gradio starts", "error.errno == errno.EADDRINUSE", "error.errno == errno.EACCES"),
    ],
    ("fastav/page/command.py", "tests/test_app.py"): [
        (
            "weights are not looked for",
            "if models.adapter_class(name).published:",
            "if not models.adapter_class(name).published:",
        ),
    ],
    ("eval/speed.py", "tests/test_speed.py"): [
        ("half a document stays on a full disk", "path.unlink()", "pass"),
        (
            "any error of torch is called out of memory",
            "if (needed := out_of_memory(error)) is None:",
            "if not (needed := 1):",
        ),
    ],
    ("fastav/provenance.py", "tests/test_provenance.py"): [
        ("a dirty tree passes for its commit", '("+dirty" if git(', '("" if git('),
        ("two dirty trees look alike", 'sorted(package.rglob("*.py"))', "()"),
        ("a wheel takes the commit of the repository around it", 'if not (_ROOT / ".git").exists():', "if False:"),
        ("the word list of a checkpoint may change", '("safetensors", "bin", "json", "txt"', '("safetensors", "bin", "txt"'),
    ],
    ("eval/experiment.py", "tests/test_experiment.py"): [
        ("a plan is known by its name", 'if entry["plan_sha256"] != now:', "if False:"),
        (
            "a clip is known by its name",
            'if now.get(question.clip, result["clip_sha256"]) != result["clip_sha256"]:',
            "if False:",
        ),
        ("another FastAV goes on", 'return fastav["version"], fastav["source_sha256"]', 'return (fastav["version"],)'),
        ("a finished run's weights are not looked at", "if same_checkpoint(found, asked) and folder.is_dir():", "if False:"),
        ("questions in other words go on", 'if result["question"] != question.prompt:', "if False:"),
    ],
    ("eval/run.py", "tests/test_experiment.py"): [
        (
            "a limited summary replaces the whole one",
            'name = "summary" if len(questions) ==',
            'name = "summary" if True or len(questions) ==',
        ),
    ],
    ("eval/interrupt.py", "tests/test_faults.py"): [
        ("the line that resumes starts over", "_command[:] = [word for word in _command if", "[word for word in _command if"),
    ],
    ("eval/store.py", "tests/test_experiment.py"): [
        ("records of the earlier schema pass", 'if self.settings and self.settings.get("schema") != SCHEMA:', "if False:"),
        (
            "an old summary beside fresh records",
            'for file in (*folder.glob("summary*"), self.path):',
            "for file in (self.path,):",
        ),
    ],
    ("eval/store.py", "tests/test_faults.py"): [
        ("half a line stays on a full disk", "self._file.truncate(end)", "pass"),
    ],
    ("eval/loop.py", "tests/test_experiment.py"): [
        ("a plan that changes under way", 'if outcome["plan_sha256"] != methods[method]:', "if False:"),
        ("a clip that changes under way", "if not isinstance(clip, Failure) and known.get(", "if False and known.get("),
    ],
    ("fastav/errors.py", "tests/test_faults.py"): [
        ("the CPU allocator's error is like any other", '"can\'t allocate memory", "DefaultCPUAllocator", ', ""),
    ],
    ("eval/loop.py", "tests/test_faults.py"): [
        ("no memory is given back", "self._session.free()", "pass"),
        (
            "memory is given back while the exception holds it",
            'failure = Failure("out of memory", f"out of memory: {text or kind}")',
            'failure = Failure("out of memory", f"out of memory: {text or kind}"); self._kept = error',
        ),
        ("a traceback for each question", "if place not in self._shown:", "if True:"),
    ],
    ("eval/summary.py", "tests/test_experiment.py"): [
        ("random minus FastAV", "        a, b = b, a", "        pass"),
        ("random at other token counts", 'of_a["lengths"] == of_b["lengths"]', "True"),
        ("intervals of a task count questions", "[q.clip for q in scored])", "[q.key for q in scored])"),
    ],
    ("fastav/stats.py", "tests/test_stats.py"): [
        ("an interval narrower than Wilson's", "return max(1.0, sum(", "return max(0.0, sum("),
        ("clips do not count", "by_clip[clip] += value - mean", "by_clip[object()] += value - mean"),
    ],
    ("fastav/methods/cut.py", "tests/test_app.py"): [
        ("a yes is no text form", "str(value).lower() if isinstance(value, bool) else value", "value"),
    ],
    ("fastav/methods/listing.py", "tests/test_cli.py"): [
        (
            "the middle layer reads as none",
            'default = "the middle layer" if each.layer and',
            'default = "the middle layer" if False and',
        ),
        ("a sentence ends at an abbreviation", r'r"(?<=\.) (?=[A-Z])"', r'r"(?<=\.) "'),
    ],
    ("fastav/page/controls.py", "tests/test_app.py"): [
        ("the controls of all methods are shown", "gr.update(visible=each == name)", "gr.update(visible=True)"),
        ("another model's last layer", '{"maximum": each.high} if each.layer', '{"maximum": each.high} if False'),
        ("no first(N) may be typed", "allow_custom_value=any(", "allow_custom_value=all("),
    ],
    ("fastav/page/view.py", "tests/test_view.py"): [
        ("time tokens are drawn", "tokens[: rows * cols]", "tokens"),
    ],
}


def main(words: list[str]) -> int:
    chosen = [
        (file, test, *mutant)
        for (file, test), mutants in MUTANTS.items()
        for mutant in mutants
        if not words or any(word in mutant[0] for word in words)
    ]
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder)
        copy_tree(tree)
        for test in dict.fromkeys(test for _, test, *_ in chosen):
            red, output = run(tree, test, "unchanged code", ("RED", "green"))
            if red:
                print(f"{output}\n{test} fails without any mutant, so it proves nothing")
                return 1
        survivors = [name for file, test, name, old, new in chosen if not killed(tree, file, test, name, old, new)]
    print(
        f"{len(chosen) - len(survivors)} of {len(chosen)} mutants turned their test red"
        + "".join(f"\nsurvived: {n}" for n in survivors)
    )
    return int(bool(survivors) or not chosen)


def killed(tree: Path, file: str, test: str, name: str, old: str, new: str) -> bool:
    """Whether the test fails once `old` has become `new`; the copy is as before afterwards."""
    source = (tree / file).read_text()
    if source.count(old) != 1 or "\n" in old + new:
        raise SystemExit(f"mutant {name!r} no longer fits: {old!r} occurs {source.count(old)} times in {file}")
    (tree / file).write_text(source.replace(old, new))
    red, _ = run(tree, test, name, ("red", "SURVIVED"))
    (tree / file).write_text(source)
    return red


def run(tree: Path, test: str, name: str, words: tuple[str, str]) -> tuple[bool, str]:
    """(a test failed, output) of one test file in the copy, up to its first failure; prints a line of the table."""
    began = time.perf_counter()
    # No bytecode files: one written for a mutant of the same length and second would be taken for the original's.
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", f"--timeout={TIMEOUT_SEC}", test]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True)
    if done.returncode not in (0, 1, 2):  # green, red, or not even importable: everything else is no verdict
        raise SystemExit(f"pytest ended with code {done.returncode} on {test}\n{done.stdout}{done.stderr}")
    red = done.returncode != 0
    print(f"{name:<46} {test:<24} {words[not red]:<8} {time.perf_counter() - began:5.1f} s", flush=True)
    return red, done.stdout


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
