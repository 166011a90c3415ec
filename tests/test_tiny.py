"""FastAV-tiny: its world, its questions, its arithmetic. Oracles: counting, plain numpy, and the stock decoder on one
question alone.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers.audio_utils import mel_filter_bank

from fastav.errors import UserError
from fastav.tiny import batches, scenes, train_decoder, train_encoders
from fastav.tiny import model as tiny
from fastav.tiny.drawing import COLORS, KINDS
from fastav.tiny.questions import N_TRAINING, WORDINGS, caption, matching, place
from fastav.tiny.tokenizer import Tokenizer
from fastav.tiny.world import N_FRAMES, Noise, Thing, draw, held_out_color, held_out_pair, play

ROOT = Path(__file__).resolve().parents[1]
BELL, CAR = Thing(0, 0, 40, (4, 4, 10, 10), 0, 7, False), Thing(1, 2, 40, (64, 60, 66, 62), 2, 3, True)


def combinations(scene):
    pairs = [held_out_pair(t.kind, n.kind) for t in scene.things for n in scene.noises]
    return [held_out_color(t.kind, t.color) for t in scene.things] + pairs


def test_training_has_no_held_out_combination_and_every_test_scene_has_one():
    assert not any(any(combinations(scenes.scene(0, i, "train"))) for i in range(150))
    assert all(any(combinations(scenes.scene(0, i, "test"))) for i in range(150))
    rng = np.random.default_rng(0)
    assert not any(held_out_color(t.kind, t.color) for _ in range(150) for t in train_encoders.training_things(rng))


def test_decoder_training_pairs_are_half_matching_and_never_held_out():
    rng = np.random.default_rng(1)
    pairs = batches.Pairs(
        [train_encoders.training_things(rng) for _ in range(300)], [train_encoders.training_noises(rng) for _ in range(900)]
    )
    drawn = [pairs.draw(random.Random(i)) for i in range(1500)]
    seen = [(pairs.things[v], pairs.noises[a]) for v, a in drawn]
    assert not any(held_out_pair(t.kind, n.kind) for things, noises in seen for t in things for n in noises)
    asked = [matching(things, noises) for things, noises in seen if things and noises]
    assert 0.42 < np.mean(asked) < 0.62


def test_questions_cannot_be_answered_without_the_clip():
    """Majority answer per question text, the best that a text-only reader could do, stays at 55 % or below."""
    _, records = scenes.build(3, "test", 1000)
    answers = defaultdict(Counter)
    for family, text, answer in (r for own in records for r in own):
        if family in ("visible", "heard", "matching"):
            answers[text][answer] += 1
    assert sum(max(c.values()) for c in answers.values()) / sum(sum(c.values()) for c in answers.values()) <= 0.55
    sizes = Counter(r[0] for own in records for r in own)
    assert sizes["visible"] + sizes["heard"] >= 850 and sizes["matching"] == 150
    assert all(sizes[family] == 125 for family in ("caption", "count", "color", "place"))


def test_answers_by_hand():
    things, noises = [BELL, CAR], [Noise(1, 0.1, 0.3, 0.1), Noise(5, 0.5, 0.9, 0.1)]
    assert caption(things, noises) == "A red bell and a blue car are visible, and a car and a siren are heard."
    assert caption([], []) == "Nothing is visible, and nothing is heard."
    assert caption(None, noises[:1]) == "A car is heard."
    assert not matching(things, noises) and matching(things, noises[:1])
    assert place(BELL) == "left" and place(CAR) == "right"


def test_every_family_has_ten_training_wordings_and_two_unseen_of_known_words():
    tokenizer = Tokenizer()
    for wordings in WORDINGS.values():
        assert len(wordings) == N_TRAINING + 2 == len(set(wordings))
        for text in wordings:
            tokenizer.encode(text.format("bell"))
    trained = {w for ws in WORDINGS.values() for text in ws[:N_TRAINING] for w in tokenizer.encode(text.format("bell"))}
    unseen = {w for ws in WORDINGS.values() for text in ws[N_TRAINING:] for w in tokenizer.encode(text.format("bell"))}
    assert unseen <= trained


def test_tokenizer_round_trips_captions_and_names_unknown_words():
    tokenizer = Tokenizer()
    text = "A red bell and a blue car are visible, and a siren is heard."
    assert tokenizer.decode([*tokenizer.encode(text), tokenizer.eos_id]) == text
    assert tokenizer.encode("Is the BELL visible?") == tokenizer.encode("is the bell visible ?")
    with pytest.raises(UserError, match="does not know the word 'zebra'; it knows: .*bell"):
        tokenizer.encode("Is the zebra visible?")


def test_the_same_seed_gives_the_same_clip():
    a, b = (scenes.scene(7, 3, "test") for _ in range(2))
    assert np.array_equal(a.frames(16), b.frames(16)) and np.array_equal(a.audio(), b.audio())
    assert not np.array_equal(a.frames(8), scenes.scene(7, 4, "test").frames(8))


def test_patch_labels_say_what_covers_the_patch():
    """The car covers pixels 64..104 in x and 60..102 in y during frames 2 and 3: patches in rows 2-3, columns 2-3."""
    kinds, colors = train_encoders.patch_labels([CAR])
    assert (kinds[[0, 1, 4, 5, 6, 7]] == len(KINDS)).all()
    assert set(kinds[2][kinds[2] == 1].tolist()) == {1} and set(np.flatnonzero(kinds[2] == 1)) <= {10, 11, 14, 15}
    assert set(colors[2][kinds[2] == 1].tolist()) == {2} and colors[0, 0] == len(COLORS)
    frames = draw(np.random.default_rng(0), [CAR])
    assert len(frames) == N_FRAMES and np.abs(frames[2].astype(int) - frames[0]).max() > 60


def test_sound_labels_follow_the_sampled_pieces():
    """An 8 s track is cut into pieces starting 15/14 s apart: a sound in its second half is heard in the later pieces only."""
    labels = train_encoders.sound_labels([Noise(4, 0.5, 1.0, 0.1)], 8.0)
    starts = [7.5 * i / 7 for i in range(8)]
    want = [4 if s + (j + 0.5) * 0.04 >= 4 else len(KINDS) for s in starts for j in range(12)]
    got = np.concatenate([labels[int(i * 12.5) : int(i * 12.5) + 12] for i in range(8)])
    assert (got == np.array(want)).mean() > 0.97
    short = train_encoders.sound_labels([Noise(4, 0.0, 1.0, 0.1)], 2.0)
    assert (short[:50] == 4).all() and (short[50:] == len(KINDS)).all()


def test_pick_sound_by_hand():
    picked, n = tiny.pick_sound(np.arange(160_000, dtype=np.float32))
    assert n == 64_000 and [picked[i * 8000] for i in range(8)] == [152_000 * i // 7 for i in range(8)]
    picked, n = tiny.pick_sound(np.ones(24_000, np.float32))
    assert n == 24_000 and picked[:n].all() and not picked[n:].any() and len(picked) == 64_000
    assert tiny.TinyAV.n_sounding(24_000) == 76 and tiny.TinyAV.n_sounding(64_000) == 200


def test_log_mel_equals_a_plain_transform():
    """Frame 10 by numpy: 512 samples around sample 1,600, Hann, |rfft|^2, triangles, log."""
    wave = play(np.random.default_rng(0), [Noise(0, 0.0, 0.9, 0.1)])
    got = tiny.log_mel(torch.from_numpy(wave[None]))[0, :, 10].numpy()
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(512) / 512)
    power = np.abs(np.fft.rfft(wave[1600 - 256 : 1600 + 256] * window)) ** 2
    want = np.log(power @ tiny.mel_filters().numpy() + 1e-4) / 4
    assert np.allclose(got, want, atol=1e-3)


def test_mel_filters_are_those_of_transformers():
    """HTK's mel scale, 64 triangles of height 1 from 30 to 8,000 Hz over the 257 bins of a 512-point spectrum."""
    bank = mel_filter_bank(257, 64, 30.0, 8000.0, 16_000, norm=None, mel_scale="htk")
    np.testing.assert_allclose(tiny.mel_filters().numpy(), bank, atol=1e-5)


def test_packed_training_forward_equals_the_stock_decoder_on_one_question_alone():
    """Packing, masks and positions must not change an answer: last-word logits of each question against a plain forward."""
    torch.manual_seed(0)
    model = tiny.TinyAV().eval()
    rng = np.random.default_rng(0)
    things, noises = [[BELL, CAR]] * 4, [[Noise(1, 0.1, 0.5, 0.1)]] * 4
    cache = SimpleNamespace(
        video=torch.randn(4, 128, 192).half(),
        audio=torch.randn(4, 200, 192).half(),
        pairs=batches.Pairs(things, noises),
        sound_labels=rng.integers(0, 13, (4, 100)),
    )
    batch = batches.Batch(random.Random(3), cache, model.tokenizer, 2, 8, 1)
    with torch.inference_mode():
        text, _ = train_decoder.forward(model, batch)
        for row in range(2):
            words = batch.ids[row].tolist()
            end = words.index(model.tokenizer.assistant_id) + 1
            embed = model.decoder.get_input_embeddings()
            media = [
                projector(features[row])
                for projector, features in ((model.vision_projector, batch.video), (model.audio_projector, batch.audio))
            ]
            ids = [model.tokenizer.bos_id, model.tokenizer.user_id]
            alone = torch.cat([embed(torch.tensor(ids)), *media, embed(torch.tensor(words[:end]))])[None]
            want = model.decoder.model(inputs_embeds=alone).last_hidden_state[0, -1]
            got = model.decoder.model.norm(text[row, end - 1])
            assert torch.allclose(got, want, atol=2e-4)


@pytest.fixture
def saved(tmp_path):
    tiny.save(tiny.TinyAV(), tmp_path)
    return tmp_path


def test_saving_and_loading_keeps_weights_to_16_bits(saved):
    torch.manual_seed(1)
    model = tiny.TinyAV()
    tiny.save(model, saved)
    loaded = tiny.load(saved)
    for (name, a), b in zip(model.state_dict().items(), loaded.state_dict().values(), strict=True):
        assert torch.allclose(a.float(), b.float(), rtol=2**-8, atol=1e-30), name
    assert (saved / "model.safetensors").stat().st_size < 20e6


def test_a_checkpoint_of_other_words_is_refused(saved):
    """The same words in another order are other ids."""
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps({**config, "words": config["words"][::-1]}))
    with pytest.raises(UserError, match="lists other words than this version knows"):
        tiny.load(saved)


def test_damaged_checkpoints_are_named(saved):
    weights = saved / "model.safetensors"
    state = load_file(weights)
    whole = weights.read_bytes()
    missing = {k: v for k, v in state.items() if k != "vision.out.weight"}
    save_file(missing, weights)
    with pytest.raises(UserError, match="misshapen vision.out.weight"):
        tiny.load(saved)
    save_file({**missing, "vision.out.weight": torch.zeros(3, 3)}, weights)
    with pytest.raises(UserError, match="misshapen vision.out.weight"):
        tiny.load(saved)
    weights.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="damaged"):
        tiny.load(saved)
    weights.unlink()
    with pytest.raises(UserError, match="cannot load FastAV-tiny"):
        tiny.load(saved)


def test_rendered_set_has_the_schema_and_both_streams(tmp_path):
    from fastav.clip.read import read_clip

    scenes.write(tmp_path, 1, "test", 16, workers=1)
    records = json.loads((tmp_path / "QA.json").read_text())
    assert set(records[0]) == {"video_id", "task", "text", "label"} and {r["label"] for r in records[:2]} == {"Yes", "No"}
    assert {r["task"] for r in json.loads((tmp_path / "tiny_world.json").read_text())} == {"Counting", "Color", "Location"}
    assert set(json.loads((tmp_path / "wordings.json").read_text()).values()) <= {"seen", "unseen"}
    clip = read_clip(tmp_path / "videos" / "00000.mp4", size=(112, 112))
    scene = scenes.scene(1, 0, "test")
    assert clip.has_audio and abs(clip.duration_sec - scene.seconds) < 0.1
    # The frames that come back are those that the encoder was trained on: H.264 costs little.
    want = scene.frames(round(scene.seconds * scenes.FPS))[clip.n_source_frames // 16 :: clip.n_source_frames // 8][:8]
    assert np.abs(clip.frames.astype(int) - want).mean() < 12


def test_ctrl_c_while_clips_are_rendered_is_one_line(tmp_path):
    """Worker processes get the signal, too. Oracle: the exit code of a program ended by SIGINT."""
    command = [sys.executable, "-m", "fastav.tiny.scenes", str(tmp_path / "set"), "--questions", "400"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not list(tmp_path.glob("set/**/*.mp4")):
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert err.splitlines()[-1] == "interrupted" and "Traceback" not in err
