"""``ovseg mine`` and ``ovseg pairs``, as a user types them."""

from pathlib import Path

import pytest

from flows.command import main
from storage_schemas.artifact import Artifact

SETTINGS = """\
name = "tiny"
datasets.drawn = { dataset = "drawn-world", split = "val", drawn_world = { scenes = 3 }, scenes_per_shard = 2 }
clip = { architecture = "drawn-world-small", pretrained = "shipped" }
mine = { dataset = "drawn", source = "masks-classes", propose = { short_side_px = 96, max_side_px = 96 } }
"""


@pytest.fixture(scope="module")
def mined(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mined")
    (folder / "tiny.toml").write_text(SETTINGS)
    return folder


def mine(folder: Path, *more: str) -> int:
    return main(["mine", "--config", str(folder / "tiny.toml"), "--set", f"runs_dir={folder / 'runs'}", *more])


def test_mine_tells_where_the_pairs_are_and_filter_makes_fewer(mined, tmp_path, capsys):
    assert mine(mined) == 0
    directory = Path(capsys.readouterr().out.strip())
    assert mine(mined) == 0
    assert Path(capsys.readouterr().out.strip()) == directory
    nouns = tmp_path / "nouns.txt"
    nouns.write_text("sky\n\n grass \na\u2028b\n", encoding="utf-8")
    command = ["pairs", "filter", str(directory), "--out", str(tmp_path / "fewer")]
    assert main([*command, "--max-per-noun", "1"]) == 0
    assert Path(capsys.readouterr().out.strip()) == tmp_path / "fewer"
    pairs, fewer = Artifact.open(directory).manifest(), Artifact.open(tmp_path / "fewer").manifest()
    assert 0 < fewer.rows < pairs.rows
    out = str(tmp_path / "listed")
    assert main(["pairs", "filter", str(directory), "--out", out, "--nouns-file", str(nouns), "--nouns", "road"]) == 0
    asked = Artifact.open(tmp_path / "listed").description.attributes["filter"]
    assert asked == {"nouns": ["a\u2028b", "grass", "road", "sky"]}  # lines end at line feeds alone


def test_a_card_that_is_gone_is_made_again(mined, capsys):
    assert mine(mined) == 0
    directory = Path(capsys.readouterr().out.strip())
    (directory / "README.md").unlink()
    assert main(["pairs", "card", str(directory)]) == 0
    assert Path(capsys.readouterr().out.strip()) == directory / "README.md"
    assert (directory / "README.md").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["filter"], "--out"),
        (["filter", "--out", "x", "--min-score", "2"], "rows fulfils {'min_score': 2.0}; ask for less"),
        (["card", "--out", "x"], "Unrecognized options: --out"),
        (["export", "--out", "x"], "--to"),
        (["export", "--out", "x", "--to", "yaml"], "--to"),
    ],
)
def test_wrong_calls_of_pairs_are_reported(mined, capsys, arguments, message):
    assert mine(mined) == 0
    directory = capsys.readouterr().out.strip()
    assert main(["pairs", arguments[0], directory, *arguments[1:]]) != 0
    assert message in capsys.readouterr().err


def test_pairs_go_to_a_coco_file_and_back(mined, tmp_path, capsys):
    assert mine(mined) == 0
    directory = capsys.readouterr().out.strip()
    assert main(["pairs", "export", directory, "--to", "coco", "--out", str(tmp_path / "coco")]) == 0
    rows = Artifact.open(Path(directory)).manifest().counts["ok"]
    assert f"{tmp_path / 'coco'}: {rows} pairs" in capsys.readouterr().out
    file = tmp_path / "coco" / "annotations" / "instances_pairs.json"
    assert main(["pairs", "import", str(file), "--out", str(tmp_path / "again")]) == 0
    assert Path(capsys.readouterr().out.strip()) == tmp_path / "again"
    assert Artifact.open(tmp_path / "again").manifest().counts == {"ok": rows}


def test_signs_and_negatives_are_made_beside_the_pairs_and_the_card_sums_the_signs_up(mined, tmp_path, capsys):
    assert mine(mined) == 0
    directory = capsys.readouterr().out.strip()
    assert main(["pairs", "signs", directory]) == 0
    signs = Path(capsys.readouterr().out.strip())
    assert (signs.parent, Artifact.open(signs).identity.kind) == (mined / "runs" / "pair_signs", "pair_signs")
    assert f"`pair_signs/{signs.name}`" in (Path(directory) / "README.md").read_text()
    assert mine(mined) == 0  # the pairs are complete as they are
    assert main(["pairs", "filter", directory, "--out", str(tmp_path / "half"), "--keep-share", "0.5"]) == 0
    whole, half = (Artifact.open(path).manifest().counts["ok"] for path in (Path(directory), tmp_path / "half"))
    assert half == round(0.5 * whole)
    capsys.readouterr()
    assert main(["pairs", "negatives", directory, "--per-picture", "2"]) == 0
    negatives = Path(capsys.readouterr().out.strip())
    assert (negatives.parent, Artifact.open(negatives).status().finished) == (mined / "runs" / "negatives", True)


@pytest.mark.parametrize("words", [["pairs"], ["pairs", "sort"], ["pairs", "--help"]])
def test_commands_of_two_words_are_listed(words, capsys):
    assert main(words) == 2
    shown = capsys.readouterr().err
    assert "pairs: should be followed by one of " in shown
    assert all(name in shown for name in ("filter", "signs", "negatives", "card", "audit", "export", "import"))


def test_without_a_proposal_net_mine_says_what_to_run(mined, capsys):
    code = mine(mined, "--set", "mine.source=proposals-1-caption", "--set", "proposal_net.dataset=drawn")
    assert code != 0
    assert "run 'ovseg train-proposals' first" in capsys.readouterr().err
