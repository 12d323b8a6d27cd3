"""Artefacts: read back as written; refused with one clear line when damaged, unknown or newer."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from msq.artefact import Artefact
from msq.bitmap import BitMap
from msq.bundle import Manifest
from msq.checkpoint import Accuracy, Checkpoint, DataId, InputSpec, Site
from msq.errors import BundleError
from msq.measurement import Measurement
from msq.provenance import MEANING, Kind

ARTEFACTS: list[type[Artefact]] = [BitMap, Checkpoint, Manifest, Measurement]


def checkpoint(**changes: object) -> Checkpoint:
    sites = tuple(
        Site(
            name=name,
            op="conv2d",
            parameter=f"{name}.weight",
            shape=(4, 3, 3, 3),
            bits=bits,
            paper_bits=max(bits - 1, 0),
            a=1,
            z=1 << bits >> 1,
            granularity="per_channel",
            representation="sign_magnitude",
        )
        for name, bits in (("stem.conv", 4), ("stage1.0.conv1", 0))
    )
    whole = Checkpoint(
        recipe="tiny",
        recipe_sha256="0" * 64,
        model="resnet8",
        method="msq",
        input=InputSpec(height=8, width=8, channels=3, mean=(0.5,) * 3, std=(0.2,) * 3),
        labels=("a", "b"),
        sites=sites,
        activation_bits=8,
        average_bits=2.0,
        paper_compression=21.3,
        accuracy=(Accuracy(what="float", correct=3, n=4),),
        history=(),
        data=DataId(name="tiny", sha256="1" * 64, train=8, test=4),
        golden=1,
        seed=0,
        phases=(),
        versions={"torch": "2"},
        files={},
    )
    return whole.model_copy(update=changes)


@given(bits=st.dictionaries(st.text(min_size=1), st.integers(0, 8)))
def test_a_bit_map_is_read_as_it_was_written(bits, tmp_path_factory):
    path = tmp_path_factory.mktemp("map") / "bits.json"
    BitMap(bits=bits).write(path)
    assert BitMap.read(path) == BitMap(bits=bits)


def test_the_bit_map_of_a_checkpoint_has_the_stored_bits_of_every_site():
    assert BitMap.of(checkpoint()).bits == {"stem.conv": 4, "stage1.0.conv1": 0}


def test_a_checkpoint_is_read_as_it_was_written(tmp_path):
    wanted = checkpoint()
    wanted.write(tmp_path / "checkpoint.json")
    assert Checkpoint.open(tmp_path) == wanted


def test_opening_a_checkpoint_verifies_its_files(tmp_path):
    checkpoint(files={"program.pt2": "2" * 64}).write(tmp_path / "checkpoint.json")
    with pytest.raises(BundleError, match=r"program\.pt2: missing"):
        Checkpoint.open(tmp_path)


@pytest.mark.parametrize("artefact", ARTEFACTS)
def test_a_missing_artefact_is_named(artefact, tmp_path):
    with pytest.raises(BundleError, match=r"it\.json: no such file"):
        artefact.read(tmp_path / "it.json")


@pytest.mark.parametrize("artefact", ARTEFACTS)
def test_a_newer_schema_is_refused_as_such_even_with_unknown_keys(artefact, tmp_path):
    path = tmp_path / "it.json"
    path.write_text(json.dumps({"schema_version": 99, "invented_later": True}))
    with pytest.raises(BundleError, match=f"schema version 99 is newer than {artefact.SCHEMA}"):
        artefact.read(path)


def test_an_unknown_key_is_named(tmp_path):
    path = tmp_path / "bits.json"
    path.write_text('{"schema_version": 1, "bits": {}, "colour": "red"}')
    with pytest.raises(BundleError, match=r"bits\.json: colour: "):
        BitMap.read(path)


def test_an_unknown_key_inside_a_part_is_named(tmp_path):
    path = tmp_path / "checkpoint.json"
    values = checkpoint().model_dump(mode="json")
    values["input"]["depth"] = 3
    path.write_text(json.dumps(values))
    with pytest.raises(BundleError, match=r"input\.depth: "):
        Checkpoint.read(path)


@given(share=st.floats(0, 0.99))
def test_a_truncated_artefact_is_refused_in_one_line(share, tmp_path_factory):
    path: Path = tmp_path_factory.mktemp("cut") / "checkpoint.json"
    checkpoint().write(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(BundleError) as caught:
        Checkpoint.read(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_bytes_that_are_not_text_are_refused(tmp_path):
    path = tmp_path / "bits.json"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(BundleError, match="not a JSON text file"):
        BitMap.read(path)


def test_fields_do_not_change_after_reading():
    with pytest.raises(ValueError, match="frozen"):
        checkpoint().seed = 3  # type: ignore[misc]


def test_every_kind_of_provenance_has_a_meaning():
    assert set(MEANING) == set(Kind)
