"""Loading settings: order of sources, every class of fault, and that all faults are reported at once."""

import json
import os
import pickle
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.settings import (
    Settings,
    SettingsError,
    load_settings,
    writable_runs_dir,
)
from pipeline.settings.loading import parse_overrides, parse_value, with_overrides

CONFIGS = Path(__file__).parents[3] / "flows" / "configs"
DRAWN = "[datasets.drawn]\ndataset = 'drawn-world'\nsplit = 'val'\n"


@pytest.fixture
def write(tmp_path: Path):
    def write_file(text: str) -> Path:
        path = tmp_path / "run.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return write_file


def faults_of(*arguments) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load_settings(*arguments)
    assert str(caught.value) == "\n".join(caught.value.faults)
    return list(caught.value.faults)


# Order: default < file < flag


def test_without_file_and_flags_the_defaults_hold():
    assert load_settings() == Settings()


def test_the_file_goes_before_defaults_and_flags_before_the_file(write):
    path = write("[finetune]\nprompt_depth = 6\nseed = 7\n")
    settings = load_settings(path, ["finetune.prompt_depth=12"])
    assert (settings.finetune.prompt_depth, settings.finetune.seed) == (12, 7)
    assert settings.finetune.mode == "ft-then-mpt"


def test_of_two_flags_for_one_key_the_later_one_holds():
    assert load_settings(None, ["name=a", "name=b"]).name == "b"


def test_a_part_of_a_section_leaves_the_defaults_of_its_other_settings(write):
    settings = load_settings(write("[finetune.mpt]\nepochs = 1\n"))
    assert settings.finetune.mpt == Settings().finetune.mpt.model_copy(update={"epochs": 1})


def test_a_flag_reaches_into_a_list_of_tables(write):
    again = DRAWN.replace("drawn]", "again]")
    path = write(DRAWN + again + "[[evaluate.datasets]]\ndataset = 'drawn'\n[[evaluate.datasets]]\ndataset = 'again'\n")
    settings = load_settings(path, ["evaluate.datasets.1.ensemble_weight=0.6"])
    assert [each.ensemble_weight for each in settings.evaluate.datasets] == [0.7, 0.6]


def test_relative_paths_are_relative_to_the_current_directory_not_to_the_file(write):
    assert load_settings(write("runs_dir = 'here'\n")).runs_dir == Path("here")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("0.5", 0.5),
        ("true", True),
        ("[1, 2]", [1, 2]),
        ('"3"', "3"),
        ("/data/runs", "/data/runs"),
        ("tcp://10.0.0.1:8786", "tcp://10.0.0.1:8786"),
        ("", ""),
        ("1\nother = 2", "1\nother = 2"),
        ("{a = 1}", {"a": 1}),
    ],
)
def test_the_value_of_a_flag_is_toml_or_else_plain_text(text, value):
    assert parse_value(text) == value


@given(st.text())
def test_every_text_is_a_value(text):
    parse_value(text)


@given(st.recursive(st.integers(), lambda inner: st.dictionaries(st.sampled_from("abc"), inner, max_size=3)))
def test_an_overlay_changes_its_own_place_alone(document):
    document = {"top": document, "other": 1}
    before = json.dumps(document)
    changed = with_overrides(document, parse_overrides(["top.a.b=5"])[0])
    assert changed["top"]["a"]["b"] == 5
    assert changed["other"] == 1
    assert json.dumps(document) == before


# Faults, one by one


def test_unknown_setting_names_the_likely_one_beside_it(write):
    path = write("[finetune]\nprompt_dept = 3\n")
    assert faults_of(path) == [
        f"{path}: finetune.prompt_dept: unknown setting, did you mean 'finetune.prompt_depth'? (got 3)"
    ]


def test_unknown_setting_names_the_likely_one_elsewhere(write):
    path = write("prompt_depth = 3\n")
    assert faults_of(path) == [f"{path}: prompt_depth: unknown setting, did you mean 'finetune.prompt_depth'? (got 3)"]


def test_unknown_setting_in_a_list_is_named_with_its_place(write):
    path = write(DRAWN + "[[evaluate.datasets]]\ndataset = 'drawn'\nensemble_weigh = 1\n")
    (fault,) = faults_of(path)
    assert fault.startswith(f"{path}: evaluate.datasets.0.ensemble_weigh: unknown setting, ")
    assert fault.endswith("did you mean 'evaluate.datasets.0.ensemble_weight'? (got 1)")


def test_unknown_setting_like_no_other_has_no_suggestion(write):
    path = write("zzz = 3\n")
    assert faults_of(path) == [f"{path}: zzz: unknown setting (got 3)"]


def test_unknown_section(write):
    path = write("[mine.par]\nmin_score = 0.1\n")
    assert faults_of(path) == [
        f"{path}: mine.par: unknown setting, did you mean 'mine.pair'? (got {{\"min_score\": 0.1}})"
    ]


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("finetune.seed = '3'", 'finetune.seed: should be a valid integer (got "3")'),
        ("finetune.seed = true", "finetune.seed: should be a valid integer (got true)"),
        ("finetune.seed = 1.5", "finetune.seed: should be a valid integer"),
        ("compute.compile = 1", "compute.compile: should be a valid boolean (got 1)"),
        ("runs_dir = 3", "runs_dir: should be a path in quotes (got 3)"),
        ("mine.nouns.stop_words = 'photo'", "mine.nouns.stop_words: should be a list"),
        ("mine = 3", "mine: should be a table (got 3)"),
        ("finetune.ft.learning_rate = nan", "finetune.ft.learning_rate: should be a finite number (got NaN)"),
    ],
)
def test_wrong_type(write, line, what):
    path = write(f"{line}\n")
    (fault,) = faults_of(path)
    assert fault.startswith(f"{path}: {what}")


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("compute.workers = -1", "compute.workers: should be greater than or equal to 0 (got -1)"),
        ("finetune.prompt_depth = 0", "finetune.prompt_depth: should be greater than or equal to 1 (got 0)"),
        ("mine.pair.min_score = 1.5", "mine.pair.min_score: should be less than or equal to 1 (got 1.5)"),
        (
            "finetune.mode = 'tune'",
            "finetune.mode: should be 'ft', 'mpt', 'ft-then-mpt', 'mpt-then-ft', 'ft+mpt', 'psm', 'ft+psm', 'text' ",
        ),
        (
            "name = 'two words'",
            "name: does not fit, it is: Name of the run's artifacts; letters, digits, '_' and '-'. (got \"two words\")",
        ),
        ("compute.device = 'gpu'", "compute.device: does not fit, it is: 'cpu', 'cuda', 'cuda:N', or 'auto'"),
        (
            "proposal_net.architecture.hidden_dim = 36",
            "proposal_net.architecture: hidden_dim 36 should be a multiple of heads 8",
        ),
        (
            "proposal_net.architecture.backbone = {name = 'swin_tiny_patch4_window7_224', freeze_at = 2}",
            "proposal_net.architecture.backbone: freeze_at should be 0 and frozen_batch_norm false for the Swin",
        ),
        (
            "proposal_net.architecture.backbone.drop_path_rate = 0.3",
            "proposal_net.architecture.backbone: drop_path_rate 0.3 should be 0 for 'r101c', which is no Swin",
        ),
        (
            "proposal_net.architecture.backbone.timm_arguments = {stem_width = 16}",
            "proposal_net.architecture.backbone: timm_arguments should be empty for 'r101c'",
        ),
        ("proposal_net.training.augmentation.short_sides_px = []", "proposal_net.training.augmentation.short_sides_px"),
        (
            "proposal_net.validation_max_side_px = 400",
            "proposal_net: validation_max_side_px 400 should be at least validation_short_side_px 512",
        ),
        ("mine.propose.max_side_px = 400", "mine.propose: max_side_px 400 should be at least short_side_px 512"),
        ("evaluate.max_side_px = 400", "evaluate: max_side_px 400 should be at least short_side_px 512"),
        (
            "mine.nouns.stop_words = ['view', 'Photo']",
            "mine.nouns.stop_words: stop word 'Photo' should be in lower case, with single blanks between words",
        ),
        ("mine.nouns.lower_case = false", "mine.nouns: lower_case should be true where lemmas is"),
        ("mine.nouns.stop_words = ['']", "mine.nouns.stop_words: stop word '' should be in lower case"),
    ],
)
def test_out_of_range(write, line, what):
    path = write(f"{line}\n")
    (fault,) = faults_of(path)
    assert fault.startswith(f"{path}: {what}")


def test_a_data_set_that_is_to_be_evaluated_twice(write):
    path = write(DRAWN + "[[evaluate.datasets]]\ndataset = 'drawn'\n" * 2)
    (fault,) = faults_of(path)
    assert fault.startswith(f"{path}: evaluate.datasets: data set 'drawn' should be there once, not 2 times")


def test_a_needed_setting_that_is_absent(write):
    path = write("[[evaluate.datasets]]\nensemble_weight = 0.5\n")
    assert faults_of(path) == [f"{path}: evaluate.datasets.0.dataset: is missing"]


def test_a_fault_of_a_flag_is_reported_as_the_flags(write):
    path = write("finetune.prompt_depth = 3\n")
    assert faults_of(path, ["finetune.prompt_depth=0"]) == [
        "--set: finetune.prompt_depth: should be greater than or equal to 1 (got 0)"
    ]


def test_a_fault_of_a_section_that_a_flag_makes_is_reported_as_the_flags(write):
    path = write("name = 'x'\n")
    assert faults_of(path, ["datasets.mine.split=val"]) == ["--set: datasets.mine.dataset: is missing"]


@pytest.mark.parametrize("flag", ["name", "=3", "a b=3", ""])
def test_a_flag_that_is_no_assignment(flag):
    assert faults_of(None, [flag]) == [f"--set: should be key=value, such as mine.pair.min_score=0.2 (got {flag!r})"]


def test_a_long_value_is_cut_short(write):
    path = write(f"zzz = '{'x' * 500}'\n")
    (fault,) = faults_of(path)
    assert fault.endswith("xxx...)")
    assert len(fault) < len(str(path)) + 120


def test_all_faults_are_reported_at_once(write):
    path = write("name = 3\n[mine]\nsourc = 'x'\n[finetune]\nmode = 'no'\nseed = -1\n")
    faults = faults_of(path, ["compute.workers=-2", "nonsense"])
    assert [fault.split(": ")[:2] for fault in faults] == [
        ["--set", "should be key=value, such as mine.pair.min_score=0.2 (got 'nonsense')"],
        [str(path), "name"],
        [str(path), "mine.sourc"],
        [str(path), "finetune.mode"],
        [str(path), "finetune.seed"],
        ["--set", "compute.workers"],
    ]


def test_a_settings_error_keeps_its_faults_on_the_way_between_processes():
    error = SettingsError(["a: b", "c: d"])
    again = pickle.loads(pickle.dumps(error))
    assert (again.faults, str(again)) == (error.faults, str(error))


# Names of data sets


def test_a_data_set_that_is_not_described_is_a_fault(write):
    path = write("[datasets.drawn-train]\ndataset = 'drawn-world'\nsplit = 'train'\n[mine]\ndataset = 'drawn-trian'\n")
    assert faults_of(path) == [
        f"{path}: mine.dataset: is no name under 'datasets', did you mean 'drawn-train'? (got \"drawn-trian\")"
    ]


def test_every_place_that_names_a_data_set_is_looked_at(write):
    lines = ["[mine]", "[proposal_net]", "[finetune]"]
    keys = [["dataset"], ["dataset", "validation_dataset"], ["validation_dataset"]]
    text = "\n".join("\n".join([line, *(f"{key} = 'x'" for key in of)]) for line, of in zip(lines, keys, strict=True))
    faults = faults_of(
        write(text + "\n[evaluate.sweep]\nvalidation_dataset = 'x'\n[[evaluate.datasets]]\ndataset = 'x'\n")
    )
    assert {fault.split(": ")[1] for fault in faults} == {
        "mine.dataset",
        "proposal_net.dataset",
        "proposal_net.validation_dataset",
        "finetune.validation_dataset",
        "evaluate.datasets.0.dataset",
        "evaluate.sweep.validation_dataset",
    }
    assert all("is no name under 'datasets'; there are none (got \"x\")" in fault for fault in faults)


def test_names_of_data_sets_are_checked_beside_other_faults(write):
    path = write("[mine]\ndataset = 'x'\nsource = 'y'\n")
    assert [fault.split(": ")[1] for fault in faults_of(path)] == ["mine.dataset", "mine.source"]


def test_the_name_of_a_data_set_has_no_blank(write):
    path = write("[datasets.'two words']\ndataset = 'folder'\n")
    (fault,) = faults_of(path)
    assert fault.startswith(f"{path}: datasets.two words: should match pattern")


@pytest.mark.parametrize("config", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.name)
def test_every_shipped_configuration_names_its_data_sets(config):
    settings = load_settings(config)
    assert settings.proposal_net.dataset in settings.datasets
    assert settings.mine.dataset in settings.datasets
    assert settings.evaluate.datasets


# Files


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("a = 1\nb = = 2\n", "line 2, column 5: Invalid value"),
        ("[mine]\n[mine]\n", "line 2, column 6: Cannot declare"),
        ("a = [1,", "end of document: "),
    ],
)
def test_a_syntax_error_names_line_and_column(write, text, what):
    path = write(text)
    (fault,) = faults_of(path)
    assert fault.startswith(f"{path}: {what}")
    assert fault.endswith("correct the TOML there")


def test_a_missing_file(tmp_path):
    path = tmp_path / "absent.toml"
    assert faults_of(path) == [f"{path}: no such file; give a settings file, such as flows/configs/demo.toml"]


def test_a_directory_in_place_of_a_file(tmp_path):
    assert faults_of(tmp_path) == [f"{tmp_path}: cannot be read (Is a directory); give a settings file"]


def test_a_file_that_is_not_utf8(tmp_path):
    path = tmp_path / "run.toml"
    path.write_bytes(b"name = '\xff'\n")
    assert faults_of(path) == [f"{path}: is not UTF-8 (byte 8); save it as UTF-8 text"]


# The runs directory


def test_the_runs_directory_is_made_and_left_empty(tmp_path):
    path = tmp_path / "a" / "runs"
    assert writable_runs_dir(path) == path
    assert list(path.iterdir()) == []
    assert writable_runs_dir(path) == path


@pytest.mark.parametrize("below", ["", "runs"])
def test_a_file_in_place_of_the_runs_directory(tmp_path, below):
    (tmp_path / "file").write_text("")
    path = tmp_path / "file" / below
    with pytest.raises(
        SettingsError, match=r"runs_dir: should be a directory, a file is in its place; .* \(got .*file"
    ):
        writable_runs_dir(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_runs_directory_without_permission(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.raises(SettingsError, match=r"runs_dir: cannot be written to \(Permission denied\)"):
        writable_runs_dir(tmp_path / "runs")


def test_a_runs_directory_that_the_system_refuses(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr("tempfile.TemporaryFile", refuse)
    with pytest.raises(SettingsError, match=r"runs_dir: cannot be written to \(Read-only file system\); make it"):
        writable_runs_dir(tmp_path)
