"""`python -m fastav` end to end on the built-in model: answers for what it can read, one line and exit code 2 for what
it cannot.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from fastav.__main__ import main
from fastav.clip.write import write_clip
from fastav.methods import METHODS, parse
from fastav.tiny.scenes import scene

ROOT = Path(__file__).parents[1]
QUESTION = "Is the bell making sound in the audio?"


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """A clip with sound, one without, a wav file, and three that are none."""
    import soundfile

    folder = tmp_path_factory.mktemp("clips")
    own = scene(0, 0, "train")
    frames, audio = own.frames(16).repeat(2, 1).repeat(2, 2), own.audio()
    write_clip(folder / "both.mp4", frames, 4, audio)
    write_clip(folder / "silent.mp4", frames, 4, None)
    soundfile.write(folder / "sound.wav", audio, 16000)
    (folder / "text.mp4").write_text("not a clip at all\n" * 50)
    (folder / "empty.mp4").write_bytes(b"")
    (folder / "cut.mp4").write_bytes((folder / "both.mp4").read_bytes()[:2000])
    return folder


def test_text_output_has_both_answers_and_the_table(clips, capsys):
    assert main([str(clips / "both.mp4"), QUESTION]) == 0
    out = capsys.readouterr().out
    assert out.startswith("vanilla  ") and "\npruned   " in out
    assert "Prefill FLOPs, vanilla = 100" in out and "single run" in out


def test_json_is_one_document_alone_on_stdout(clips):
    run = subprocess.run(
        [sys.executable, "-m", "fastav", str(clips / "both.mp4"), QUESTION, "--json"], capture_output=True, text=True, cwd=ROOT
    )
    assert run.returncode == 0, run.stderr
    record = json.loads(run.stdout)
    pruned = record["pruned"]
    assert pruned["flops_relative_percent"] <= 70 and sum(pruned["tokens_before"].values()) == pruned["lengths"][0]
    assert record["vanilla"]["method"] == "vanilla" and "loading tiny" in run.stderr


def test_one_stream_is_answered_and_said(clips, capsys):
    for name, note in (("silent.mp4", "video only: single-stream mode"), ("sound.wav", "audio only: single-stream mode")):
        assert main([str(clips / name), "Describe what you see and hear."]) == 0
        assert note in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["text.mp4", QUESTION], "text.mp4"),
        (["empty.mp4", QUESTION], "empty.mp4"),
        (["cut.mp4", QUESTION], "cut.mp4"),
        (["missing.mp4", QUESTION], "no such file"),
        (["both.mp4", "Is the zebra visible?"], "does not know the word 'zebra'"),
        (["both.mp4", " "], "question is empty"),
        (["both.mp4", QUESTION, "--method", "fast"], f"unknown method 'fast'; allowed: {', '.join(sorted(METHODS))}"),
        (["both.mp4", QUESTION, "--method", "fastav:start=8"], "start must be from 1 to 7"),
        (
            ["both.mp4", QUESTION, "--model", "gpt"],
            "unknown model 'gpt'; allowed: qwen2.5-omni, tiny, video",
        ),
        (["both.mp4", QUESTION, "--checkpoint", "/nowhere"], "has no model.safetensors"),
        (["both.mp4", QUESTION, "--device", "cuda:9"], "cuda:9"),
        (["both.mp4", QUESTION, "--attn", "magic"], "unknown attention 'magic'"),
        (["both.mp4", QUESTION, "--measure", "--repeats", "1"], "at least 5 repeats"),
    ],
)
def test_what_the_user_can_fix_is_one_line_and_exit_code_2(clips, capsys, arguments, message):
    assert main([str(clips / arguments[0]), *arguments[1:]]) == 2
    err = capsys.readouterr().err
    assert message in err.splitlines()[-1] and "Traceback" not in err


@pytest.mark.parametrize("name", METHODS)
def test_the_list_of_methods_is_what_their_fields_say(capsys, name):
    """Oracle: the dataclasses' own fields and docstrings."""
    assert main(["methods", name]) == 0
    one = capsys.readouterr().out
    assert main(["methods"]) == 0
    assert one in capsys.readouterr().out
    kind = METHODS[name]
    assert " ".join(kind.__doc__.split()).startswith(one.splitlines()[1].strip())
    entries = re.split(r"^    (\w+)= +", one, flags=re.M)[1:]
    entries = dict(zip(entries[::2], entries[1::2], strict=True))
    assert list(entries) == [field.name for field in fields(kind)]
    for field in fields(kind):
        entry, about = entries[field.name], field.metadata
        default = "the middle layer" if field.name == "start" and field.default is None else field.default
        assert entry.startswith(about["help"])
        assert f"; default: {'none' if default is None else default}\n" in entry
        assert [line.split()[0] for line in entry.splitlines()[1:] if about["choices"]] == list(about["choices"])
        for limit, words in ((about["low"], ("from", "at least")), (about["high"], ("to",))):
            assert limit is None or any(f"{word} {limit}" in entry for word in words)


def test_the_list_of_methods_by_hand(capsys):
    assert main(["methods"]) == 0
    out = capsys.readouterr().out
    assert "eq. 2-4 of the paper).\n    start=" in out  # an abbreviation ends no sentence
    assert "\n    p=          percent of the unprotected tokens that leave after each layer\n" in out
    assert "\n                a whole number from 0 to 100; default: 20\n" in out
    assert "\n                a whole number from 1 to the last layer; default: the middle layer\n" in out
    assert out.rstrip().splitlines()[-8:] == [
        "trim, trim+METHOD",
        "  Audio tokens that encode zero padding and no sound never enter layer 0 (in VideoLLaMA2 up to 1,496 of 2,206 tokens).",
        "",
        "METHOD@45",
        "  The method at 45 % of vanilla's FLOPs, by the one setting that turns there.",
        "",
        "evs+fastav, divprune+fastav",
        "  The first method acts before layer 0, then FastAV on what it leaves.",
    ]
    assert main(["methods", "trim"]) == 0 and capsys.readouterr().out in out
    assert main(["methods", "fast"]) == 2
    assert "unknown method 'fast'; allowed: diverse, divprune, " in capsys.readouterr().err


@pytest.mark.parametrize("method", ["trim", *METHODS])
def test_every_method_is_asked_by_its_name(clips, capsys, method):
    """Oracle: the record's own text form, read again. FastAV-tiny's prompt has no padding that trim could leave out."""
    assert main([str(clips / "both.mp4"), QUESTION, "--method", method, "--json"]) == 0
    pruned = json.loads(capsys.readouterr().out)["pruned"]
    assert pruned["method"] == str(parse(method, 8)) and pruned["grids"] == [[4, 4]] * 8
    assert (pruned["lengths"][-1] < sum(pruned["tokens_before"].values())) == (method not in ("trim", "vanilla"))


def test_an_empty_question_is_refused_before_anything_is_loaded(clips, capsys, monkeypatch):
    monkeypatch.setattr("fastav.session.load", lambda *_, **__: pytest.fail("a model was loaded"))
    assert main([str(clips / "both.mp4"), " "]) == 2
    assert "the question is empty" in capsys.readouterr().err


def test_calibrate_writes_a_plan_that_the_method_accepts(clips, tmp_path, capsys):
    plan = tmp_path / "plan.json"
    assert main(["calibrate", "-n", "2", "--keep", "0.1", "--output", str(plan)]) == 0
    assert "33 of 328 media offsets pass" in capsys.readouterr().out
    assert main([str(clips / "both.mp4"), QUESTION, "--method", f"fastav:plan={plan}", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    kept = np.array(record["pruned"]["layers_seen"])
    assert (kept > 4).sum() == record["pruned"]["lengths"][4] == 33 + record["pruned"]["tokens_before"]["text"]
    assert main(["calibrate", "--keep", "0", "--output", str(plan)]) == 2


ASK = ("assets/examples/dog_car.mp4", "Is the dog visible in the video?", "--measure", "--repeats", "99")


@pytest.mark.parametrize(
    ("arguments", "seen", "seconds"),
    [
        (ASK, r"import time:.* fastav\.errors\n", 0),
        (ASK, r"import time:.* torch\._C\n", 0.1),
        (ASK, r"import time:.* transformers\n", 0.2),
        (ASK, "loading tiny", 0),
        (ASK, "measuring", 1.5),
        (("calibrate", "-n", "9999", "--output", "{}/plan.json"), "clip 2 of", 0.1),
        (("check",), r"import time:.* fastav\.check\n", 0),
    ],
)
def test_ctrl_c_ends_every_command_with_one_line_and_130_at_any_moment(tmp_path, arguments, seen, seconds):
    """`seen`: a line on stderr, where Python also reports every module as soon as it is imported (-X importtime)."""
    command = [sys.executable, "-X", "importtime", "-m", "fastav", *(a.format(tmp_path) for a in arguments)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert any(re.match(seen, line) for line in process.stderr)
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    finally:
        process.kill()
    said = [line for line in err.splitlines() if not line.startswith(("import time:", "USDT:"))]
    assert (process.returncode, said[-1:]) == (130, ["interrupted"]), err[-500:]
    assert "Traceback" not in err and "vanilla" not in out


def test_ctrl_c_is_said_by_the_program_and_not_by_its_forks():
    """A fork ends with 130 and without a word, then the program with its line."""
    code = """if True:
        import os, signal
        from fastav import interrupt
        interrupt.install()
        fork = os.fork()
        if fork:
            print(os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1]), flush=True)
        os.kill(os.getpid(), signal.SIGINT)
        signal.pause()
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "130\n", "interrupted\n")


@pytest.mark.parametrize("arguments", [("--help",), (*ASK[:2], "--json"), ("check",)], ids=["help", "ask", "check"])
def test_a_reader_that_leaves_gets_no_traceback(arguments):
    command = [sys.executable, "-m", "fastav", *arguments]
    buffered = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    reader, writer = os.pipe()
    os.close(reader)  # before the program begins, so that it cannot have written all
    process = subprocess.Popen(command, cwd=ROOT, env=buffered, text=True, stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    err = process.stderr.read()
    assert (process.wait(timeout=60), "Traceback" in err, "BrokenPipeError" in err) == (141, False, False), err


@pytest.mark.parametrize(
    ("called", "command", "usage"),
    [
        ("/opt/bin/fastav", ["--help"], "usage: fastav [-h]"),
        ("/opt/bin/fastav", ["calibrate", "--help"], "usage: fastav calibrate [-h]"),
        ("C:/Scripts/fastav.exe", ["check", "--help"], "usage: fastav check [-h]"),
        ("/lib/fastav/__main__.py", ["check", "--help"], "usage: python -m fastav check [-h]"),
        ("pytest", ["--help"], "usage: python -m fastav [-h]"),
    ],
)
def test_the_program_is_named_as_it_was_called(capsys, monkeypatch, called, command, usage):
    monkeypatch.setattr(sys, "argv", [called, *command])
    with pytest.raises(SystemExit, match="0"):
        main(command)
    assert capsys.readouterr().out.startswith(usage)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")])
def test_running_out_of_memory_is_one_line(clips, capsys, monkeypatch, error):
    """Oracle: the same errors that Python and torch's allocator raise, in the midst of an answer."""

    def full(*args, **kwargs):
        raise error

    monkeypatch.setattr("fastav.session.Session.compare", full)
    code = None
    try:
        code = main([str(clips / "both.mp4"), QUESTION])
    except (MemoryError, RuntimeError):
        pass
    assert code == 2
    assert "out of memory: some bytes more were needed" in capsys.readouterr().err.splitlines()[-1]
