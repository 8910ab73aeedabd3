"""What `--setting` means."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thunderstone.comparison.settings import Setting, parse_setting, parse_settings
from thunderstone.errors import ArgumentError, CompositionError, RequestError, UnknownNameError


def test_plain_attaches_nothing():
    assert parse_setting("plain") == Setting("plain", (), {})


@pytest.mark.parametrize(
    ("text", "label", "options"),
    [
        ("sam:rho=0.05", "sam:rho=0.05", ["sam:rho=0.05"]),
        ("sam:rho=5e-2", "sam:rho=0.05", ["sam:rho=0.05"]),
        ("sam:rho=1e+3", "sam:rho=1000.0", ["sam:rho=1000.0"]),
        ("sam:rho=0.05 + saf", "sam:rho=0.05+saf", ["sam:rho=0.05", "saf"]),
    ],
)
def test_methods_are_joined_by_a_plus(text, label, options):
    setting = parse_setting(text)
    assert (setting.label, list(setting.options)) == (label, options)


def test_the_arguments_of_every_method_are_known():
    setting = parse_setting("sam:rho=0.3+saf")
    assert setting.methods.keys() == {"sam", "saf"}
    assert setting.methods["sam"]["rho"] == 0.3
    assert setting.methods["sam"]["adaptive"] is False


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        ("plain+sam", RequestError, "'plain' alone attaches nothing"),
        ("sam+", RequestError, "is not of the form"),
        ("", RequestError, "is not of the form"),
        ("sam:rho=[", RequestError, "is missing in"),
        ("smm", UnknownNameError, "Did you mean 'sam'"),
        ("sam:rho=-1", ArgumentError, "rho=-1.0 is not allowed"),
        ("sam+asam", CompositionError, "both own the gradient"),
    ],
)
def test_what_cannot_be_attached_is_refused(text, error, message):
    with pytest.raises(error, match=message):
        parse_setting(text)


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "needs two settings or more"),
        (["plain"], "needs two settings or more"),
        (["plain", "sam:rho=0.1", "sam:rho=1e-1"], "'sam:rho=1e-1' is there twice"),
    ],
)
def test_settings_are_several_and_different(texts, message):
    with pytest.raises(RequestError, match=message):
        parse_settings(texts)


@given(st.lists(st.text(min_size=1, max_size=80), unique=True, max_size=8))
def test_different_settings_have_different_folders_that_are_names(labels):
    folders = [Setting(label, (), {}).folder for label in labels]
    assert len(set(folders)) == len(labels)
    assert all("/" not in folder and folder not in (".", "..") for folder in folders)
