"""The documents of an artifact: what they refuse to say, and which damage to them is found."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage_schemas.digests import readable_json, sealed_json
from storage_schemas.errors import ArtifactError, SchemaError
from storage_schemas.manifest import ARTIFACT_FILE, FORMAT, Description, Identity, Manifest, Sidecar, read_document


def identity(**changes: object) -> Identity:
    return Identity(
        **{"kind": "scenes", "name": "a", "schema_version": 1, "producer_version": 1, "settings": {}, **changes}
    )


def sidecar(unit: str = "shard-00000", **changes: object) -> Sidecar:
    return Sidecar(**{"unit": unit, "artifact_digest": "d", "files": (), "rows": 3, "counts": {"ok": 3}, **changes})


@pytest.mark.parametrize("changes", [{"kind": "../up"}, {"name": "a b"}, {"name": ""}])
def test_names_that_could_not_name_a_directory_are_refused(changes: dict[str, str]) -> None:
    with pytest.raises(ArtifactError, match=r"artifact (kind|name): .*; use letters"):
        identity(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "b"},
        {"schema_version": 2},
        {"producer_version": 2},
        {"settings": {"a": 1}},
        {"inputs": {"scenes": "d"}},
    ],
)
def test_every_part_of_an_identity_is_in_its_digest(changes: dict[str, object]) -> None:
    assert identity(**changes).digest() != identity().digest()


@pytest.mark.parametrize("unit", ["manifest", "artifact", "a.b", "", "-a"])
def test_units_that_would_be_taken_for_other_files_are_refused(unit: str) -> None:
    with pytest.raises(ArtifactError, match=r"unit name: .*; use letters"):
        Description(identity=identity(), units=("shard-00000", unit))


def test_units_have_names_of_their_own() -> None:
    with pytest.raises(ArtifactError, match="units: 3 names, 2 of them distinct; give each a name of its own"):
        Description(identity=identity(), units=("a", "b", "a"))


def test_counts_that_do_not_add_up_are_refused() -> None:
    with pytest.raises(
        ArtifactError, match=r"shard-00000: 3 rows, but the counts .* add up to 4; count every row once"
    ):
        sidecar(counts={"ok": 3, "failed": 1})


def test_a_description_and_a_sidecar_come_back(tmp_path: Path) -> None:
    description = Description(
        identity=identity(settings={"b": [1, None]}), units=("x", "y"), attributes={"names": ["ü"]}
    )
    (tmp_path / ARTIFACT_FILE).write_bytes(description.to_json())
    assert Description.read(tmp_path).to_json() == description.to_json()
    (tmp_path / "x.json").write_bytes(sidecar("x", facts={"captions": 7}).to_json())
    assert Sidecar.read(tmp_path / "x.json") == sidecar("x", facts={"captions": 7})


def test_a_manifest_sums_up_its_units() -> None:
    description = Description(identity=identity(), units=("x", "y"))
    manifest = Manifest(description=description, units=(sidecar("x"), sidecar("y", counts={"unreadable": 2, "ok": 1})))
    assert (manifest.rows, manifest.counts) == (6, {"ok": 4, "unreadable": 2})
    assert json.loads(manifest.to_json())["document_digest"] == manifest.digest()


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (None, ArtifactError, "is not there; run the stage that makes it"),
        (b"{", ArtifactError, r"cannot be read \(Expecting"),
        (b"\xff", ArtifactError, "cannot be read"),
        (b"[1]", ArtifactError, "holds a list, a JSON object is expected"),
        (b'{"format": 99}', SchemaError, f"storage format 99, this version reads {FORMAT}; use the version that wrote"),
        (b'{"format": 1, "a": 2}', ArtifactError, "is damaged, its document_digest None is not true of it"),
        (b'{"format": 1, "a": NaN}', ArtifactError, "is damaged"),
        (sealed_json({"format": 1, "a": 2}).replace(b"2", b"3", 1), ArtifactError, "is damaged"),
        (sealed_json({"format": 1, "a": 2}) + b" ", ArtifactError, "is damaged"),
    ],
)
def test_a_document_that_is_not_as_it_was_written(
    tmp_path: Path, content: bytes | None, error: type[Exception], message: str
) -> None:
    path = tmp_path / "x.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=message):
        read_document(path)


def test_a_sound_document_of_another_kind_is_reported(tmp_path: Path) -> None:
    for name in (ARTIFACT_FILE, "x.json"):
        (tmp_path / name).write_bytes(sealed_json({"format": FORMAT, "identity": {"kind": "scenes"}, "files": [1]}))
    with pytest.raises(
        ArtifactError, match=r"artifact\.json: describes no artifact \(.*missing.*\); run the stage again"
    ):
        Description.read(tmp_path)
    with pytest.raises(ArtifactError, match=r"x\.json: is not a sidecar \(.*\); delete it and run the stage again"):
        Sidecar.read(tmp_path / "x.json")


SCALARS = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()


@given(st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20))
def test_json_for_people_has_the_bytes_of_the_standard_library(value: object) -> None:
    assert readable_json(value) == json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False).encode() + b"\n"


@pytest.mark.parametrize("value", [float("nan"), {"a": [float("inf")]}])
def test_json_for_people_refuses_what_json_has_not(value: object) -> None:
    with pytest.raises(ValueError, match="JSON"):
        readable_json(value)
