"""The page in headless Chromium. Oracle: what a person would see, read from the page and from the downloaded record."""

import json
import re
from dataclasses import replace
from pathlib import Path

import clips
import pytest
from conftest import answered, ask, opened, serve, upload
from playwright.sync_api import expect

from fastav.methods import METHODS, parse

PHONE = {"video": "libx265", "audio": "aac", "rate": 48_000, "layout": "stereo", "rotation": -90, "variable": True}
FROM_LINK = "fastav:start=3,p=35,rule=all,fine=top,protect=text,seed=0"
QUESTION = "Is the bell making sound in the audio?"


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return clips.write(tmp_path_factory.mktemp("clips") / "square.mp4", "libx264", "aac")


def downloaded(page) -> dict:
    with page.expect_download() as download:
        page.get_by_text("Download the record").click()
    return json.loads(Path(download.value.path()).read_text())


def test_the_first_page_comes_within_8_seconds(server):
    assert server["first_page_sec"] <= 8


def test_a_clip_gives_two_streamed_answers_and_the_figures(page, clip):
    upload(page, clip)
    expect(page.locator("#preview .fa-strip img")).to_have_count(8)
    ask(page, QUESTION)
    answered(page)
    assert re.search(r"prefill compute, first token .*(same|different) answer\.", page.locator(".fa-headline").inner_text())
    expect(page.locator(".fa-conditions")).to_contain_text("single run")
    record = downloaded(page)
    lengths = record["pruned"]["lengths"]
    assert record["pruned"]["question"] == QUESTION

    slider = page.get_by_role("slider", name="Layer", exact=True)
    for layer in (0, len(lengths) // 2, len(lengths) - 1):
        slider.fill(str(layer))
        expect(page.locator(".fa-kept")).to_have_text(f"{lengths[layer]} of {lengths[0]} kept")
    for name in (".fa-frames", ".fa-audio", ".fa-profile"):
        colours = "c => new Set(new Uint32Array(c.getContext('2d').getImageData(0, 0, c.width, c.height).data.buffer)).size"
        assert page.locator(name).evaluate(colours) > 1, f"{name} is empty"


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("phone.mov", PHONE),
        ("messenger.webm", {"video": "libvpx-vp9", "audio": "libopus", "rate": 48_000}),
        ("new.mp4", {"video": "libsvtav1", "audio": "aac", "options": {"preset": "12"}}),
        ("silent.mp4", {"video": "libx264"}),
        ("sound.m4a", {"audio": "aac"}),
        ("sound.wav", {"audio": "pcm_s16le"}),
    ],
)
def test_clips_as_they_come_are_answered(page, tmp_path, name, settings):
    upload(page, clips.write(tmp_path / name, **settings))
    facts = page.locator("#preview figcaption").inner_text()
    assert facts.startswith(name)
    assert [missing in facts for missing in ("no video", "no sound")] == [kind not in settings for kind in ("video", "audio")]
    ask(page, QUESTION)
    answered(page)
    assert ("single-stream" in page.locator("#figures").inner_text()) == (len(settings.keys() & {"video", "audio"}) == 1)


@pytest.mark.parametrize(("name", "content"), [("text.mp4", b"not a film, just text\n" * 50), ("empty.mp4", b"")])
def test_files_that_are_no_clip_are_named(page, tmp_path, name, content):
    """Once when it is uploaded, once when it is asked about; the page goes on working."""
    (tmp_path / name).write_bytes(content)
    page.locator("#clip input[type=file]").set_input_files(str(tmp_path / name))
    expect(page.get_by_test_id("toast-body").first).to_contain_text(name)
    ask(page, QUESTION)
    expect(page.locator("#headline")).to_contain_text(name)
    expect(page.locator("#vanilla textarea")).to_have_value("")


def test_without_a_clip_or_question_the_page_says_so(page, clip):
    ask(page, QUESTION)
    expect(page.locator("#headline")).to_contain_text("There is no clip yet")
    upload(page, clip)
    ask(page, "")
    expect(page.locator("#headline")).to_contain_text("The question is empty")


def test_markup_in_the_question_stays_text(page, clip):
    """Whether the model answers or refuses unknown words, nothing of it may become an element."""
    upload(page, clip)
    ask(page, "Is <img src=x onerror=\"document.title='broken'\"> the bell visible in the video?")
    expect(page.locator("#headline .fa-headline, #headline .fa-status:not(:has(i))")).to_be_visible(timeout=60_000)
    assert page.locator("img[src=x]").count() == 0 and page.title() == "FastAV"


def test_stop_frees_the_page_for_the_next_run(page, clip):
    upload(page, clip)
    ask(page, QUESTION, "Measure")
    expect(page.locator("#headline")).to_contain_text("Measuring")
    page.get_by_role("button", name="Stop", exact=True).click()
    expect(page.locator("#headline")).to_contain_text("Stopped.")
    ask(page, QUESTION)
    answered(page)


def test_measure_gives_medians(page, clip):
    upload(page, clip)
    ask(page, QUESTION, "Measure")
    answered(page)
    expect(page.locator(".fa-conditions")).to_contain_text("median of 5 runs")


def test_another_model_and_trim(browser, clip, tmp_path):
    """VideoLLaMA2's layout from a small checkpoint of its published format: a 4 s clip has 16 video and 1,496 audio tokens, of
    which trim leaves 800.
    """
    checkpoint = Path(__file__).parents[1] / "golden" / "videollama2" / "tiny"
    with serve(tmp_path, "--model", "videollama2.1-av", "--checkpoint", str(checkpoint)) as (address, _):
        with opened(browser, address) as page:
            expect(page.locator(".fa-about").first).to_contain_text("VideoLLaMA2.1", timeout=60_000)
            upload(page, clip)
            page.get_by_text("Pruning settings").click()
            page.get_by_label("leave out encoded audio padding").check()
            expect(page.locator("#method textarea, #method input")).to_have_value(re.compile("^trim"))
            ask(page, QUESTION)
            answered(page)
            record = downloaded(page)
            assert record["pruned"]["method"].startswith("trim+fastav:start=3,p=20")
            assert record["vanilla"]["lengths"][0] - record["pruned"]["lengths"][0] == 1496 - 800
            expect(page.locator(".fa-note")).to_contain_text(
                "696 padding tokens never enter the decoder. Layers 0 to 2 see all others"
            )


def pick(page, box, option: str) -> None:
    box.click()
    page.get_by_role("option", name=option, exact=True).click()


@pytest.mark.parametrize("name", METHODS)
def test_the_controls_write_the_text_of_every_method(page, clip, name):
    """Oracle: the method's own text form for FastAV-tiny's 8 layers."""
    page.get_by_text("Pruning settings").click()
    text = page.locator("#method textarea, #method input")
    expect(page.locator("#method-name input")).to_be_enabled()
    for other in ("stride", "fastav", name):
        pick(page, page.locator("#method-name input"), other)
        expect(text).to_have_value(str(parse(other, 8)), timeout=60_000)  # the model may still be loading
    method = parse(name, 8)
    if "keep=" in str(method):
        page.get_by_label("number input for Keep").fill("0.25")
        method = replace(method, keep=0.25)
        expect(text).to_have_value(str(method))
    if "seed=" in str(method):
        page.get_by_label("Seed").fill("7")
        method = replace(method, seed=7)
        expect(text).to_have_value(str(method))
    if name == "fastav":
        pick(page, page.get_by_label("Once, at the start layer"), "keep the first 750 positions")
        expect(text).to_have_value(str(replace(method, rule="first(750)")))
        page.get_by_label("Once, at the start layer").fill("first(12)")
        page.get_by_label("Once, at the start layer").press("Enter")
        method = replace(method, rule="first(12)")
        expect(text).to_have_value(str(method))
    page.get_by_label("leave out encoded audio padding").check()
    expect(text).to_have_value(f"trim+{method}")
    page.get_by_label("leave out encoded audio padding").uncheck()
    expect(text).to_have_value(str(method))
    upload(page, clip)
    ask(page, QUESTION)
    answered(page)
    assert downloaded(page)["pruned"]["method"] == str(method)


def test_a_number_that_was_emptied_is_refused_and_not_filled_in(page, clip):
    upload(page, clip)
    page.get_by_text("Pruning settings").click()
    page.get_by_label("Seed").fill("")
    ask(page, QUESTION)
    expect(page.locator("#headline")).to_contain_text("seed must be a whole number, got 'null'")


def test_settings_travel_in_a_link(server, browser, clip):
    with opened(browser, server["address"], query="/?method=fastav:start=3,p=35,rule=all,fine=top&question=How+many?") as page:
        expect(page.locator("#question textarea")).to_have_value("How many?")
        page.get_by_text("Pruning settings").click()
        text = page.locator("#method textarea, #method input")
        expect(text).to_have_value(FROM_LINK, timeout=60_000)  # the model may still be loading
        page.get_by_label("number input for Percent per layer (P)").fill("40")
        expect(text).to_have_value(re.compile("start=3,p=40,rule=all,fine=top"))
        page.get_by_role("button", name="Link to these settings").click()
        expect(page).to_have_url(re.compile(r"p%3D40.*question=How"))
        page.locator("#question textarea").fill(QUESTION)
        upload(page, clip)
        ask(page, QUESTION)
        answered(page)
        assert "fastav:start=3,p=40" in downloaded(page)["pruned"]["method"]


def test_a_link_to_a_model_that_is_not_offered_is_refused_and_the_page_works_on(server, browser, clip):
    with opened(browser, server["address"], query="/?model=qwen2.5-omni") as page:
        expect(page.get_by_test_id("toast-body").first).to_contain_text("'qwen2.5-omni' is not offered here", timeout=60_000)
        upload(page, clip)
        ask(page, QUESTION)
        answered(page)
        assert downloaded(page)["pruned"]["model"] == "tiny"


@pytest.mark.parametrize(("width", "scheme"), [(1440, "light"), (1440, "dark"), (390, "light"), (390, "dark")])
def test_the_page_fits_and_follows_the_colour_scheme(server, browser, clip, tmp_path, width, scheme):
    with opened(browser, server["address"], width=width, height=844, scheme=scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.get_by_text("Pruning settings").click()
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        upload(page, clip)
        ask(page, QUESTION)
        answered(page)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        paper = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", paper)[:3])) < 200) == (scheme == "dark")
        page.screenshot(path=tmp_path / f"{scheme}_{width}.png", full_page=True)


def test_no_traceback_in_the_servers_log(server):
    """Runs last in this file: nothing above may have been an error of ours."""
    assert "Traceback" not in server["log"].read_text()
