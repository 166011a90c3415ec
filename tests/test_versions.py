"""Which transformers was tried, and what is said of another. Oracle: requirements.txt, and versions made up for the test."""

import logging
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from fastav import models, versions
from fastav.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def other(monkeypatch):
    """Another version of transformers seems to be installed."""
    real = metadata.version

    def pretend(version):
        monkeypatch.setattr(metadata, "version", lambda name: version if name == "transformers" else real(name))

    versions.warn_if_untried.cache_clear()
    yield pretend
    versions.warn_if_untried.cache_clear()


def test_the_range_is_the_line_of_requirements():
    line = next(line for line in (ROOT / "requirements.txt").read_text().splitlines() if line.startswith("transformers"))
    assert versions.tried("transformers") == Requirement(line.partition("#")[0])
    assert versions.untried() is None, "the tests run on a version outside the range"


def test_an_untried_version_is_said_once_in_one_line(other, caplog):
    other("9.1.0")
    with caplog.at_level(logging.WARNING, "fastav"):
        versions.warn_if_untried()
        versions.warn_if_untried()
    [record] = caplog.records
    assert record.getMessage().startswith("fastav: transformers 9.1.0 has not been tried with FastAV (tried: ")
    assert "\n" not in record.getMessage()


def test_a_tried_version_is_not_spoken_of(caplog):
    versions.warn_if_untried.cache_clear()
    versions.warn_if_untried()
    assert not caplog.records


@pytest.mark.parametrize("version", ["5.20.2", "5.25.0"])
def test_what_fails_under_an_untried_version_says_so_first(other, version):
    other(version)
    with pytest.raises(UserError, match=rf"^transformers {version} has not been tried .*: KeyError: 'scaling'$"):
        with versions.blaming_untried():
            raise KeyError("scaling")


def test_what_fails_under_a_tried_version_keeps_its_own_error():
    with pytest.raises(KeyError), versions.blaming_untried():
        raise KeyError("scaling")


def test_an_installed_wheel_reads_its_own_metadata(monkeypatch, tmp_path):
    monkeypatch.setattr(versions, "_ROOT", tmp_path)
    monkeypatch.setattr(metadata, "requires", lambda name: ["torch>=2", "transformers<5.25,>=5.21"])
    assert versions.tried.__wrapped__("transformers") == Requirement("transformers>=5.21,<5.25")


def test_a_model_that_cannot_be_loaded_under_an_untried_version_says_so_first(other, monkeypatch):
    """As when a class that an adapter imports is not there yet."""
    other("5.17.0")
    monkeypatch.setitem(models._ADAPTERS, "tiny", "fastav.models.tiny:Missing")
    with pytest.raises(UserError, match=r"^transformers 5.17.0 has not been tried .*: AttributeError: "):
        models.load_model("tiny")
