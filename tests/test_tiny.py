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
from fastav.tiny import batches, render, sampling, scenes, train_decoder, train_encoders
from fastav.tiny import model as tiny
from fastav.tiny.asking import FAMILIES
from fastav.tiny.batches import examples
from fastav.tiny.drawing import COLORS, KINDS
from fastav.tiny.questions import CHOICES, LETTERS, Fact, at_end, caption, facts, four_options, longest, loudest, matching, place
from fastav.tiny.sampling import N_FRAMES
from fastav.tiny.tokenizer import Tokenizer
from fastav.tiny.wordings import LETTER, ONE_WORD, WORDINGS, YES_NO, seen, unseen
from fastav.tiny.world import Noise, Thing, draw, held_out_color, held_out_pair, play, random_noises, random_seconds

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


def test_six_in_ten_decoder_training_pairs_match_and_none_is_held_out():
    rng = np.random.default_rng(1)
    pairs = batches.Pairs(
        [train_encoders.training_things(rng) for _ in range(300)], [train_encoders.training_noises(rng, 4.0) for _ in range(900)]
    )
    drawn = [pairs.draw(random.Random(i)) for i in range(1500)]
    seen = [(pairs.things[v], pairs.noises[a]) for v, a in drawn]
    assert not any(held_out_pair(t.kind, n.kind) for things, noises in seen for t in things for n in noises)
    asked = [matching(things, noises) for things, noises in seen if things and noises]
    assert 0.56 < np.mean(asked) < 0.68


def test_questions_cannot_be_answered_without_the_clip():
    """Majority answer per question text, the best that a text-only reader could do, stays at 55 % or below on AVHBench's
    tasks; every other family with few answers has as many of each.
    """
    answers, families, wordings = defaultdict(Counter), defaultdict(Counter), Counter()
    for asked in (a for _, _, own in render.build(3, "test", 200) for a in own):
        families[asked.family][asked.answer] += 1
        wordings[asked.wording] += 1
        if asked.family in ("visible", "heard", "matching"):
            answers[asked.text][asked.answer] += 1
    assert sum(max(c.values()) for c in answers.values()) / sum(sum(c.values()) for c in answers.values()) <= 0.55
    assert {family: c.total() for family, c in families.items()} == {
        **dict.fromkeys(FAMILIES, 200),
        **{"first_place": 100, "loudest_place": 100, "count": 201, "heard_count": 201},
    }
    for family in ("visible", "heard", "matching", "louder", "longer", "more", "place", "first_place", "loudest_place", "count"):
        assert max(families[family].values()) == min(families[family].values()), family
    assert families["four_options"] == dict.fromkeys("ABCD", 50)
    assert wordings["unseen"] > 0.1 * wordings.total()


def test_a_set_of_chosen_families_has_no_other_and_writes_no_file_without_questions(tmp_path):
    chosen = render.build(3, "test", 3, families=("visible", "caption"))
    assert Counter(asked.family for _, _, own in chosen for asked in own) == {"visible": 4, "caption": 3}
    render.write_annotations(tmp_path, chosen)
    assert [path.name for path in tmp_path.iterdir()] == ["QA.json"] and len(json.loads((tmp_path / "QA.json").read_text())) == 7


def test_paired_questions_ask_the_same_fact_in_a_seen_and_in_an_unseen_wording():
    facts_asked = defaultdict(list)
    for index, _, own in render.build(4, "test", 20, paired=True):
        for asked in own:
            facts_asked[index, asked.fact].append(asked)
    for pair in facts_asked.values():
        assert [asked.wording for asked in pair] == ["seen", "unseen"] and pair[0].text != pair[1].text
        assert pair[0].answer == pair[1].answer and pair[0].text.splitlines()[1:5] == pair[1].text.splitlines()[1:5]


def test_scenes_have_the_lengths_and_the_clutter_of_the_world():
    """Shares within three standard errors: one clip in twenty of 30 to 60 s, the others of 2 to 12 s; 40 % cluttered."""
    rng = np.random.default_rng(0)
    seconds = np.array([random_seconds(rng) for _ in range(4000)])
    assert ((seconds >= 2) & (seconds <= 60) & ~((seconds > 12) & (seconds < 30))).all()
    assert abs((seconds > 12).mean() - 0.05) < 3 * (0.05 * 0.95 / 4000) ** 0.5
    cluttered = np.mean([scenes.scene(1, i, "test").cluttered for i in range(400)])
    assert abs(cluttered - 0.4) < 3 * (0.24 / 400) ** 0.5


def test_every_sound_is_heard_in_the_sampled_pieces_and_may_last_to_the_end():
    """Oracle: a track that is 1 while the sound lasts, through pick_sound: at least 0.32 s of it, or 0.4 s of the clip."""
    rng, ends = np.random.default_rng(0), []
    for _ in range(200):
        seconds = random_seconds(rng)
        noises = random_noises(rng, rng.choice(len(KINDS), 3, replace=False), seconds)
        ends.append(noises[-1].end == 1.0)
        assert all(a.end <= b.begin for a, b in zip(noises, noises[1:], strict=False))
        for noise in noises:
            n = int(seconds * 16_000)
            track = np.zeros(n)
            track[int(noise.begin * n) : int(noise.end * n)] = 1
            assert track.sum() >= 0.4 * 16_000 - 2 and sampling.pick_sound(track)[0].sum() >= 0.32 * 16_000 - 20
    assert 0.15 < np.mean(ends) < 0.45


def test_answers_by_hand():
    things, noises = [BELL, CAR], [Noise(1, 0.1, 0.3, 0.1), Noise(5, 0.5, 0.9, 0.16)]
    assert caption(things, noises) == "A red bell and a blue car are visible, and a car and a siren are heard."
    assert caption([], []) == "Nothing is visible, and nothing is heard."
    assert caption(None, noises[:1]) == "A car is heard."
    assert not matching(things, noises) and matching(things, noises[:1])
    assert place(BELL) == "left" and place(CAR) == "right"
    assert loudest(noises).kind == 5 and loudest(noises[:1]) is None
    assert loudest([noises[0], Noise(5, 0.5, 0.9, 0.149)]) is None
    assert longest(noises).kind == 5 and longest([noises[0], Noise(5, 0.5, 0.81, 0.16)]) is None and longest([]) is None
    # The last sound ends in the last 15 % of the clip, but not with it: not asked.
    assert at_end(noises) is None and at_end([Noise(5, 0.5, 1.0, 0.1)]) == "siren"
    assert at_end([Noise(5, 0.5, 0.8, 0.1)]) == at_end([]) == "nothing"
    found = facts(things, noises)
    answers = {family: [(fact.answer, fact.blanks) for fact in own] for family, own in found.items()}
    assert answers["count"] == answers["heard_count"] == [("two", ())] and answers["more"] == []
    assert answers["color"] == [("red", (0,)), ("blue", (1,))] and answers["place"] == [("left", (0,)), ("right", (1,))]
    assert answers["first"] == [("car", ())] and answers["loudest"] == [("siren", ())] and answers["sounding"] == [("car", ())]
    assert answers["louder"] == answers["longer"] == [("yes", (5, 1)), ("no", (1, 5))]
    assert answers["first_place"] == [("right", ())] and answers["loudest_place"] == [] and answers["end"] == []
    assert [k for k, (answer, _) in enumerate(answers["visible"]) if answer == "yes"] == [0, 1]
    assert facts(things, noises[:1])["more"] == [Fact("more", "more")] and facts([], noises)["more"] == [Fact("more", "fewer")]
    assert "visible" not in facts(None, noises) and "heard" not in facts(things, None)
    assert "matching" not in {**facts(None, noises), **facts(things, None)}


def test_lists_say_of_each_word_whether_it_is_right():
    """By hand: two objects, the siren louder and longer than the car."""
    things, noises = [BELL, CAR], [Noise(1, 0.1, 0.3, 0.1), Noise(5, 0.5, 0.9, 0.16)]
    asked = {e.family: e.answer.split() for e in examples(random.Random(0), things, noises) if e.is_list}
    answers = {family: dict(zip(words[::2], words[1::2], strict=True)) for family, words in asked.items()}
    assert answers["list how many"] == {"zero": "no", "one": "no", "two": "yes", "three": "no"}
    assert answers["list longer"] == answers["list loudest"] == {"car": "no", "siren": "yes"}
    assert answers["list color"] == {"bell": "red", "car": "blue"} and answers["list first or last"] == {
        "car": "first",
        "siren": "last",
    }


def test_four_options_hold_the_answer_once_at_its_letter():
    things, noises = [BELL, CAR], [Noise(1, 0.1, 0.3, 0.1), Noise(5, 0.5, 1.0, 0.16)]
    found = facts(things, noises)
    for family in CHOICES:
        for seed in range(8):
            fact = found[family][0]
            text, letter = four_options(random.Random(seed), fact, "Which?", LETTER[0], [0, 1], [1, 5])
            stem, *options, instruction = text.splitlines()
            words = [option.removeprefix(f"{sign}. ") for sign, option in zip(LETTERS, options, strict=True)]
            assert (stem, instruction) == ("Which?", LETTER[0]) and words[LETTERS.index(letter)] == fact.answer
            assert len(set(words)) == 4
            wrong = {"which_visible": {"bell", "car"}, "which_heard": {"car", "siren"}}.get(family, set())
            assert wrong & set(words) <= {fact.answer}
            assert ("nothing" in words) == (family == "end")  # right or wrong: to be there must not tell
    silent = facts(things, noises[:1])["end"][0]
    text, _ = four_options(random.Random(0), silent, "Which?", LETTER[0], [], [])
    assert silent.answer == "nothing" and text.count("nothing") == 1


def test_every_family_has_wordings_for_training_and_two_unseen_of_known_words():
    tokenizer = Tokenizer()
    assert len(tokenizer.words) < tiny.WIDTH and set(facts([BELL], [])) <= set(WORDINGS)
    for family, wordings in WORDINGS.items():
        assert len(seen(family)) >= 8 and len(unseen(family)) == 2 and len(wordings) == len(set(wordings))
    words = {
        how: {w for f in WORDINGS for text in of(f) for w in tokenizer.encode(text.format("bell", "car"))}
        for how, of in (("seen", seen), ("unseen", unseen))
    }
    assert words["unseen"] <= words["seen"]
    for text in (*YES_NO, *LETTER, *ONE_WORD):
        tokenizer.encode(text)


def test_the_letter_of_an_option_is_no_article():
    tokenizer = Tokenizer()
    letter, article = tokenizer.ids["A"], tokenizer.ids["a"]
    assert tokenizer.encode("A. dog") == [letter, tokenizer.ids["."], tokenizer.ids["dog"]]
    assert tokenizer.encode("(A) dog")[1] == letter and tokenizer.encode("A") == [letter]
    assert tokenizer.encode("A dog") == [article, tokenizer.ids["dog"]] and tokenizer.decode([letter, tokenizer.eos_id]) == "A"


def test_tokenizer_round_trips_captions_and_names_unknown_words():
    tokenizer = Tokenizer()
    text = "A red bell and a blue car are visible, and a siren is heard."
    assert tokenizer.decode([*tokenizer.encode(text), tokenizer.eos_id]) == text
    assert tokenizer.encode("Is the BELL visible?") == tokenizer.encode("is the bell visible ?")
    with pytest.raises(
        UserError, match="does not know the word 'guitars'; the nearest that it knows: guitar.*lists all .*objects bell"
    ):
        tokenizer.encode("Are guitars visible?")
    with pytest.raises(UserError, match="does not know the word 'q'[.] Its config.json lists all"):
        tokenizer.encode("q")


def test_the_same_seed_gives_the_same_clip():
    a, b = (scenes.scene(7, 3, "test") for _ in range(2))
    assert np.array_equal(a.frames(16), b.frames(16)) and np.array_equal(a.audio(), b.audio())
    assert not np.array_equal(a.frames(8), scenes.scene(7, 4, "test").frames(8))


def test_patch_labels_say_what_covers_the_patch():
    """The car covers pixels 64..104 in x and 60..102 in y during frames 2 and 3: patches in rows 2-3, columns 2-3."""
    kinds, colors = train_encoders.patch_labels([CAR], np.zeros((8, 2), int))
    assert (kinds[[0, 1, 4, 5, 6, 7]] == len(KINDS)).all()
    assert set(kinds[2][kinds[2] == 1].tolist()) == {1} and set(np.flatnonzero(kinds[2] == 1)) <= {10, 11, 14, 15}
    assert set(colors[2][kinds[2] == 1].tolist()) == {2} and colors[0, 0] == len(COLORS)
    moved, _ = train_encoders.patch_labels([CAR], np.array([[-28, 28]] * 8))  # one patch to the left and one down
    assert np.array_equal(moved.reshape(8, 4, 4)[:, 3, :3], kinds.reshape(8, 4, 4)[:, 2, 1:])
    # An object at the left edge, moved 3 pixels to the left, does not come in on the right.
    edge, _ = train_encoders.patch_labels([Thing(1, 2, 48, (0, 32, 0, 32), 0, 7, False)], np.array([[-3, 0]] * 8))
    assert (edge.reshape(8, 4, 4)[..., 3] == len(KINDS)).all()
    frames, _ = draw(np.random.default_rng(0), [CAR])
    assert len(frames) == N_FRAMES and np.abs(frames[2].astype(int) - frames[0]).max() > 60


def test_sound_labels_follow_the_sampled_pieces():
    """An 8 s track is cut into pieces starting 15/14 s apart: a sound in its second half is heard in the later pieces only."""
    labels, loudness = train_encoders.sound_labels([Noise(4, 0.5, 1.0, 0.18)], 8.0)
    assert np.allclose(loudness[labels == 4], np.log(2)) and not loudness[labels != 4].any()  # twice the middle level
    starts = [7.5 * i / 7 for i in range(8)]
    want = [4 if s + (j + 0.5) * 0.04 >= 4 else len(KINDS) for s in starts for j in range(12)]
    got = np.concatenate([labels[int(i * 12.5) : int(i * 12.5) + 12] for i in range(8)])
    assert (got == np.array(want)).mean() > 0.97
    short, _ = train_encoders.sound_labels([Noise(4, 0.0, 1.0, 0.1)], 2.0)
    assert (short[:50] == 4).all() and (short[50:] == len(KINDS)).all()


def test_pick_sound_by_hand():
    picked, n = sampling.pick_sound(np.arange(160_000, dtype=np.float32))
    assert n == 64_000 and [picked[i * 8000] for i in range(8)] == [152_000 * i // 7 for i in range(8)]
    picked, n = sampling.pick_sound(np.ones(24_000, np.float32))
    assert n == 24_000 and picked[:n].all() and not picked[n:].any() and len(picked) == 64_000
    assert tiny.TinyAV.n_sounding(24_000) == 76 and tiny.TinyAV.n_sounding(64_000) == 200


def test_log_mel_equals_a_plain_transform():
    """Frame 10 by numpy: 512 samples around sample 1,600, Hann, |rfft|^2, triangles, log."""
    wave = play(np.random.default_rng(0), [Noise(0, 0.0, 0.9, 0.1)], 4.0)
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


def test_a_checkpoint_brings_its_own_words(saved):
    """The same words in another order are other ids."""
    config = json.loads((saved / "config.json").read_text())
    words = [*config["words"][:5], *config["words"][:4:-1]]
    (saved / "config.json").write_text(json.dumps({**config, "words": words}))
    assert tiny.load(saved).tokenizer.encode("bell") == [words.index("bell")]
    for wrong in (words[1:], [*words, "bell"], "bell", [*words, {}]):
        (saved / "config.json").write_text(json.dumps({**config, "words": wrong}))
        with pytest.raises(UserError, match="must list the model's words, once each, among them <bos>"):
            tiny.load(saved)
    (saved / "config.json").write_text("[]")
    with pytest.raises(UserError, match="cannot load FastAV-tiny from"):
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

    chosen = render.build(1, "test", 1)
    render.write(tmp_path, chosen, workers=1)
    records = [*json.loads((tmp_path / "QA.json").read_text()), *json.loads((tmp_path / "tiny_world.json").read_text())]
    assert all(set(r) == {"video_id", "task", "text", "label", "cluttered", "wording", "fact"} for r in records)
    assert {r["label"] for r in records[:2]} == {"Yes", "No"}
    assert {r["task"] for r in records} == {*render.AVHBENCH.values(), *render.TINY_WORLD.values()}
    index, scene, _ = chosen[0]
    assert {r["cluttered"] for r in records if r["video_id"] == f"{index:05}"} == {scene.cluttered}
    clip = read_clip(tmp_path / "videos" / f"{index:05}.mp4", size=(112, 112))
    assert clip.has_audio and abs(clip.duration_sec - scene.seconds) < 0.3
    # The frames that come back are those that the encoder was trained on: H.264 costs little.
    want = scene.frames(clip.n_source_frames)
    at = [int((j + 0.5) * clip.n_source_frames / 8) for j in range(8)]
    assert np.abs(clip.frames.astype(int) - want[at]).mean() < 12


def test_ctrl_c_while_clips_are_rendered_is_one_line(tmp_path):
    """Worker processes get the signal, too. Oracle: the exit code of a program ended by SIGINT."""
    command = [sys.executable, "-m", "fastav.tiny.render", str(tmp_path / "set"), "--questions", "100"]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    while not list(tmp_path.glob("set/**/*.mp4")):
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 130
    assert err.splitlines()[-1] == "interrupted" and "Traceback" not in err
