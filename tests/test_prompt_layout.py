"""What each adapter says of its prompt: the question's tokens, the second and the grid of media tokens.

Oracles: the question itself, found again by looking its embeddings up; seconds by hand from the models' own reading of a clip.
"""

from pathlib import Path

import numpy as np
import pytest
import torch
from test_qwen2_5_omni import folder, small_pictures  # noqa: F401  (fixtures)

from fastav.clip.clip import clip_from_arrays
from fastav.errors import UserError
from fastav.layout import AUDIO, VIDEO
from fastav.models import load_model

GOLDEN = Path(__file__).resolve().parent / "golden"
CHECKPOINTS = {"tiny": None, "videollama2.1-av": GOLDEN / "videollama2" / "tiny", "video-salmonn-2": GOLDEN / "video_salmonn2"}
NAMES = [*CHECKPOINTS, "qwen2.5-omni"]
QUESTION = "What color is the bell?"


@pytest.fixture
def adapter(request, folder):  # noqa: F811
    place = CHECKPOINTS.get(request.param, folder)
    return load_model(request.param, place and str(place), device="cpu", dtype="float32")


def footage(seconds=4.0, fps=2.0, video=True, audio=True):
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (round(seconds * fps), 112, 112, 3), np.uint8)
    return clip_from_arrays(frames if video else None, fps, rng.uniform(-0.1, 0.1, round(seconds * 16_000)) if audio else None)


@torch.inference_mode()
def prompt(adapter, clip, question=QUESTION):
    return adapter.prepare(adapter.encode(clip), clip, question)


@pytest.mark.parametrize("streams", [(True, True), (True, False), (False, True)], ids=["both", "picture", "sound"])
@pytest.mark.parametrize("question", [QUESTION, "a"])
@pytest.mark.parametrize("adapter", NAMES, indirect=True)
def test_the_questions_tokens_spell_the_question(adapter, question, streams):
    found = prompt(adapter, footage(4.0, 2.0, *streams), question)
    rows = found.embeds[0, found.layout.question]
    table = adapter.model.get_input_embeddings().weight
    ids = torch.cdist(rows, table).argmin(1).tolist()
    assert adapter.decode(ids).lower() == question.lower()
    for shorter in (ids[1:], ids[:-1]):  # each of them holds some of it
        assert adapter.decode(shorter).lower() != question.lower()
    assert not found.layout.question[found.layout.media].any() and not found.layout.question[-1]  # where the answer begins


@pytest.mark.parametrize("adapter", NAMES, indirect=True)
def test_each_time_step_has_a_grid_that_holds_its_tokens(adapter):
    layout = prompt(adapter, footage()).layout
    sizes = np.bincount(layout.step[layout.kind == VIDEO])
    assert [rows * columns for rows, columns in layout.grids] == sizes.tolist()


def by_token(layout, kind):
    return np.unique(np.round(layout.time_sec[(layout.kind == kind) & ~np.isnan(layout.time_sec)].astype(float), 4)).tolist()


@pytest.mark.parametrize("adapter", ["tiny"], indirect=True)
def test_seconds_of_the_built_in_model(adapter):
    """Eight frames of 4 s at 8 a second: numbers 2, 6, ... 30. 100 times of 40 ms; of 10 s eight pieces, the last from 9.5 s."""
    layout = prompt(adapter, footage(4.0, 8.0)).layout
    assert by_token(layout, VIDEO) == [0.25 + i / 2 for i in range(8)]
    np.testing.assert_allclose(by_token(layout, AUDIO), 0.02 + 0.04 * np.arange(100), atol=1e-4)
    longer = prompt(adapter, footage(10.0, 8.0)).layout
    assert by_token(longer, AUDIO)[-1] == 9.98 and layout.time_sec[layout.kind == AUDIO][1] == np.float32(0.02)
    short = prompt(adapter, footage(1.0, 8.0)).layout
    assert np.isnan(short.time_sec[short.audio_padding]).all() and by_token(short, AUDIO)[-1] == 0.98


@pytest.mark.parametrize("adapter", ["videollama2.1-av"], indirect=True)
def test_seconds_of_videollama2(adapter):
    """20 s: eight pieces of 2 s, 2.25 s apart. A patch is 160 ms, its first middle 87.5 ms; number 12: 7.5 ms into piece 2."""
    layout = prompt(adapter, footage(20.0)).layout
    seconds = layout.time_sec[layout.kind == AUDIO][::8]
    assert seconds[0] == pytest.approx(0.0875) and seconds[11] == pytest.approx(0.0875 + 11 * 0.16)
    assert seconds[12] == pytest.approx(2.25 + 0.0075)
    pairs = np.array(adapter.sampler(40)).reshape(-1, 2)
    np.testing.assert_allclose(by_token(layout, VIDEO), pairs.mean(1) / 2, atol=1e-3)


@pytest.mark.parametrize("adapter", ["video-salmonn-2"], indirect=True)
def test_seconds_of_video_salmonn2(adapter):
    """A frame a second. Windows of half a second: 0.25, 0.75, ..., each heard by as many tokens as the frames share out."""
    layout = prompt(adapter, footage(4.0)).layout
    assert by_token(layout, VIDEO) == [0.0, 1.0, 2.0, 3.0]
    assert by_token(layout, AUDIO) == [0.25 + i / 2 for i in range(8)]


@pytest.mark.parametrize("adapter", ["video-salmonn-2"], indirect=True)
def test_sound_that_video_salmonn2_repeats_keeps_its_seconds(adapter):
    """7 frames share 60 tokens as 63. Oracle: the feature that each row of the prompt is equal to."""
    clip = footage(7.0)
    features = adapter.encode(clip)
    found = adapter.prepare(features, clip, QUESTION)
    heard = found.layout.kind == AUDIO
    index = torch.cdist(found.embeds[0, heard], features.audio).argmin(1).numpy()
    assert len(index) == 63 and len(set(index.tolist())) == 60
    seconds = np.where(found.layout.audio_padding[heard], np.nan, 0.25 + index / 2)
    np.testing.assert_allclose(found.layout.time_sec[heard], seconds, atol=1e-4)


@pytest.mark.parametrize("adapter", ["qwen2.5-omni"], indirect=True)
def test_seconds_of_qwen2_5_omni(adapter):
    """Two frames, 0.5 s apart, are a step; 25 audio tokens a second."""
    layout = prompt(adapter, footage(4.0)).layout
    assert by_token(layout, VIDEO) == [0.25, 1.25, 2.25, 3.25]
    np.testing.assert_allclose(by_token(layout, AUDIO), 0.02 + 0.04 * np.arange(100), atol=1e-4)


@pytest.mark.parametrize("adapter", NAMES, indirect=True)
def test_arrays_are_sampled_as_a_file_would_be_and_only_once(adapter):
    """Oracle: the same frames chosen by hand before the clip is made."""
    clip = footage(8.0, 8.0)
    chosen = clip.sampled(adapter.read_options["sampler"])
    assert len(chosen.frames) < len(clip.frames) and chosen.sampled(adapter.read_options["sampler"]) is chosen
    assert torch.equal(prompt(adapter, clip).embeds, prompt(adapter, chosen).embeds)
    with pytest.raises(Exception, match="its frames were chosen by .*, and this model takes those of"):
        chosen.sampled(lambda n, fps, seconds: range(n))


@pytest.mark.parametrize("adapter", NAMES, indirect=True)
def test_sound_at_another_rate_is_refused_by_every_model(adapter):
    clip = clip_from_arrays(None, 0, np.zeros(8000, np.float32), rate=8000)
    with pytest.raises(UserError, match="the sound must have 16000 samples per second, got 8000"):
        prompt(adapter, clip)


@pytest.mark.parametrize("adapter", ["tiny"], indirect=True)
def test_the_built_in_model_takes_pictures_of_any_size(adapter):
    """Oracle: frames of one colour each, which are the same pictures at any size."""
    colors = np.random.default_rng(0).integers(0, 255, (8, 1, 1, 3), np.uint8)
    large, small = (clip_from_arrays(np.tile(colors, (1, *size, 1)), 2.0, None) for size in ((90, 240), (112, 112)))
    got, want = (prompt(adapter, clip).embeds for clip in (large, small))
    torch.testing.assert_close(got, want)
