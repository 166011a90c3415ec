"""What is asked of the page, checked without the page. Oracle: the limits that the page names, by hand."""

import pytest

from fastav.errors import UserError
from fastav.page import request


def test_a_question_may_be_as_long_as_allowed():
    longest = "a" * request.MAX_QUESTION
    assert request.question(f" {longest}\n") == longest
    with pytest.raises(UserError, match=f"has {request.MAX_QUESTION + 1} characters"):
        request.question(longest + "a")


def test_an_upload_is_a_path_or_gradios_record_of_it():
    assert request.file("/tmp/bell.mp4") == request.file({"path": "/tmp/bell.mp4", "url": None}) == "/tmp/bell.mp4"
    for nothing in (None, "", {}, {"path": None}, {"path": ["/tmp/bell.mp4"]}):
        with pytest.raises(UserError, match="There is no clip yet"):
            request.file(nothing)


@pytest.mark.parametrize("character", [*"/\\~ %\"'A<\n", "\u0661"])
def test_a_method_with_a_character_that_only_paths_and_markup_need_is_not_even_read(monkeypatch, character):
    monkeypatch.setattr("fastav.methods.parse", lambda *_: pytest.fail("it was read"))
    with pytest.raises(UserError, match="the method must be text such as"):
        request.method(f"fastav:rule=x{character}y", 8)


def test_a_file_is_named_by_nobody_and_is_not_looked_for(monkeypatch):
    monkeypatch.setattr("fastav.plan.Plan.read", lambda *_, **__: pytest.fail("it was looked for"))
    for text in ("fastav:plan=plan.json", "trim+fastav:plan=x"):
        with pytest.raises(UserError, match="plan names a file, which the page takes from nobody"):
            request.method(text, 8)
