"""Cards: part of no manifest, current or made anew, noticed when damaged."""

from pathlib import Path

import pytest

from storage_schemas.artifact import Artifact
from storage_schemas.cards import card_facts, card_faults, has_current_card, write_card
from storage_schemas.errors import ArtifactError
from storage_schemas.manifest import Description, Identity

FACTS = {"pairs": 3}
FILES = {"README.md": b"# three", "sheet.png": b"\x89PNG"}


@pytest.fixture
def finished(tmp_path: Path) -> Artifact:
    identity = Identity(kind="pairs", name="a", schema_version=1, producer_version=1, settings={})
    artifact = Artifact.planned(tmp_path, Description(identity=identity, units=("one",)))
    with artifact.writing():
        with artifact.write_unit("one") as unit:
            sidecar = unit.commit(rows=0, counts={})
        artifact.finish(artifact.manifest_of({"one": sidecar}))
    return artifact


def test_a_card_belongs_to_its_manifest_and_is_no_part_of_it(finished):
    before = finished.manifest().digest()
    assert not has_current_card(finished, maker="card 1")
    write_card(finished, maker="card 1", facts=FACTS, files=FILES)
    assert has_current_card(finished, maker="card 1")
    assert card_facts(finished) == FACTS
    assert finished.manifest().digest() == before
    assert finished.status().foreign_files == ()


def test_another_maker_makes_another_card(finished):
    write_card(finished, maker="card 1", facts=FACTS, files=FILES)
    assert not has_current_card(finished, maker="card 2")


@pytest.mark.parametrize("damage", [b"", b"{}", b"[]", b'{"maker": "card 1"}'])
@pytest.mark.parametrize("name", ["card.json", "README.md", "sheet.png"])
def test_a_damaged_card_is_not_current(finished, damage, name):
    write_card(finished, maker="card 1", facts=FACTS, files=FILES)
    path = finished.directory / (name if name == "README.md" else f"card/{name}")
    path.write_bytes(damage)
    assert not has_current_card(finished, maker="card 1")
    write_card(finished, maker="card 1", facts=FACTS, files=FILES)
    path.unlink()
    assert not has_current_card(finished, maker="card 1")


def test_the_readme_lies_at_the_root_and_no_older_one_beside_the_card(finished):
    (finished.directory / "card").mkdir()
    (finished.directory / "card" / "README.md").write_bytes(b"as cards of before had it")
    write_card(finished, maker="card 1", facts=FACTS, files=FILES)
    assert (finished.directory / "README.md").read_bytes() == FILES["README.md"]
    assert sorted(path.name for path in (finished.directory / "card").iterdir()) == ["card.json", "sheet.png"]
    assert card_faults(finished) == ()
    (finished.directory / "README.md").write_bytes(b"")
    assert card_faults(finished) == ("README.md is not what its card states",)


def test_what_is_not_finished_gets_no_card(finished):
    (finished.directory / "manifest.json").unlink()
    with pytest.raises(ArtifactError, match=r"manifest\.json: is not there"):
        write_card(finished, maker="card 1", facts=FACTS, files=FILES)
