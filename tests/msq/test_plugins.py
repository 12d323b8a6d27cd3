"""Plug-ins: a file in a package is one; an unknown name says what there is and what was meant."""

import sys
from pathlib import Path

import pytest

from msq import plugins
from msq.errors import UsageError


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"gadgets_{tmp_path.name.replace('-', '_')}"
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "red_lamp.py").write_text("COLOUR = 'red'\n")
    (folder / "broken.py").write_text("import a_library_that_is_not_installed\n")
    (folder / "_shared.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def test_a_file_is_a_plug_in_and_a_private_one_is_not(package):
    assert plugins.names(package) == ["broken", "red-lamp"]


def test_listing_plug_ins_imports_none_of_them(package):
    plugins.names(package)
    assert not [name for name in sys.modules if name.startswith(f"{package}.")]


def test_a_plug_in_is_loaded_by_name(package):
    assert plugins.load(package, "red-lamp", "gadget").COLOUR == "red"


def test_an_unknown_name_lists_what_there_is_and_suggests_the_nearest(package):
    with pytest.raises(UsageError, match="unknown gadget 'red-lmp'; there are: broken, red-lamp") as caught:
        plugins.load(package, "red-lmp", "gadget")
    assert caught.value.hint == "did you mean 'red-lamp'?"


def test_a_name_like_none_still_gets_a_hint(package):
    with pytest.raises(UsageError) as caught:
        plugins.load(package, "xyzzy", "gadget")
    assert caught.value.hint == "choose one of those listed"
