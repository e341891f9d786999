"""Settings that stages inherit: the proposal net's input and the precision, said once, overruled where a stage does."""

from functools import reduce
from pathlib import Path

import pytest
from pydantic import ValidationError

from pipeline.settings import MineSettings, NetInputSettings, Settings, SettingsError, load_settings, settings_toml
from pipeline.settings.model import ANY_ITEM, all_settings

INHERITING = {".".join(setting.key): setting.inherits for setting in all_settings(Settings) if setting.inherits}
OTHER_VALUES = {
    ("precision",): "bf16",
    ("net_input", "short_side_px"): 100,
    ("net_input", "max_side_px"): 3000,
    ("net_input", "mask_threshold"): 0.25,
    ("namer",): "one-pass",
    ("one_pass", "side_px"): 448,
    ("one_pass", "stride_px"): 112,
}


def value(settings: Settings, key: str):
    return reduce(getattr, key.split("."), settings)


def flag(key, to) -> str:
    return f"{key}={to}"


def test_every_stage_that_runs_a_model_inherits():
    assert set(INHERITING.values()) == set(OTHER_VALUES)
    assert {key for key, source in INHERITING.items() if source == ("precision",)} == {
        "proposal_net.training.precision",
        "mine.propose.precision",
        "mine.embed.precision",
        "finetune.precision",
        "evaluate.precision",
    }
    assert {key for key, source in INHERITING.items() if source == ("net_input", "short_side_px")} == {
        "proposal_net.validation_short_side_px",
        "mine.propose.short_side_px",
        "evaluate.short_side_px",
    }
    assert {key for key, source in INHERITING.items() if source == ("namer",)} >= {"mine.embed.namer", "evaluate.namer"}


def test_no_setting_of_a_list_inherits():
    assert not [key for key in INHERITING if ANY_ITEM in key]


@pytest.mark.parametrize("key", INHERITING)
def test_a_setting_inherits_and_its_own_value_goes_before(key):
    source = INHERITING[key]
    default, shared = value(Settings(), ".".join(source)), OTHER_VALUES[source]
    assert value(Settings(), key) == default
    assert value(load_settings(None, [flag(".".join(source), shared)]), key) == shared
    both = load_settings(None, [flag(".".join(source), shared), flag(key, default)])
    assert value(both, key) == default
    own = load_settings(None, [flag(key, shared)])
    assert (value(own, key), value(own, ".".join(source))) == (shared, default)
    assert [other for other in INHERITING if value(own, other) != value(Settings(), other)] == [key]


def test_one_side_may_be_inherited_and_the_other_given(tmp_path: Path):
    path = tmp_path / "run.toml"
    path.write_text("evaluate.max_side_px = 9\n[net_input]\nshort_side_px = 4000\nmax_side_px = 8000\n")
    with pytest.raises(SettingsError) as caught:
        load_settings(path)
    assert caught.value.faults == (f"{path}: evaluate.max_side_px: should be greater than or equal to 16 (got 9)",)
    settings = load_settings(path, ["evaluate.max_side_px=5000"])
    assert (settings.evaluate.short_side_px, settings.evaluate.max_side_px) == (4000, 5000)
    with pytest.raises(SettingsError, match=r"^--set: evaluate: max_side_px 300 .* at least short_side_px 4000$"):
        load_settings(path, ["evaluate.max_side_px=300"])


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ("net_input.short_side_px = 8", "net_input.short_side_px: should be greater than or equal to 16 (got 8)"),
        ("net_input.short_side_px = '96'", 'net_input.short_side_px: should be a valid integer (got "96")'),
        ("net_input.short_side_px = 4000", "net_input: max_side_px 2048 should be at least short_side_px 4000"),
        ("net_input.mask_threshold = 1.0", "net_input.mask_threshold: should be less than 1 (got 1.0)"),
        ("net_input = 3", "net_input: should be a table (got 3)"),
        (
            "net_input.short_side = 96",
            "net_input.short_side: unknown setting, did you mean 'net_input.short_side_px'? (got 96)",
        ),
        ("precision = 'fp8'", "precision: should be 'fp32', 'tf32', 'bf16' or 'fp16' (got \"fp8\")"),
    ],
)
def test_what_is_inherited_and_wrong_is_reported_once_where_it_is(line, fault, tmp_path):
    path = tmp_path / "run.toml"
    path.write_text(f"{line}\n[mine]\nsource = 'masks-classes'\n")
    with pytest.raises(SettingsError) as caught:
        load_settings(path)
    assert caught.value.faults == (f"{path}: {fault}",)


def test_a_form_and_code_inherit_too():
    form = Settings.model_validate({"net_input": {"short_side_px": 64}, "mine": {"propose": {"max_side_px": 99}}})
    code = Settings(net_input=NetInputSettings(short_side_px=64), mine=MineSettings(dataset="x"), precision="fp16")
    for settings in (form, code):
        assert settings.mine.propose.short_side_px == 64
        assert settings.proposal_net.validation_short_side_px == 64
    assert form.mine.propose.max_side_px == 99
    assert (code.mine.dataset, code.mine.embed.precision, code.finetune.precision) == ("x", "fp16", "fp16")


def test_a_form_is_as_strict_as_a_file():
    with pytest.raises(ValidationError, match=r"finetune\.seed\n.*valid integer"):
        Settings.model_validate({"finetune": {"seed": "3"}})


def test_a_form_is_given_no_default_of_what_is_inherited():
    schema = Settings.model_json_schema()
    propose = schema["$defs"]["ProposeSettings"]["properties"]
    assert "default" not in propose["short_side_px"]
    assert propose["duplicate_iou"]["default"] == 1.0
    assert schema["$defs"]["NetInputSettings"]["properties"]["short_side_px"]["default"] == 512
    # A section's own default would hold those of all that it holds.
    assert "default" not in schema["properties"]["mine"]


def test_settings_written_as_toml_still_inherit(tmp_path):
    path = tmp_path / "resolved.toml"
    path.write_text(settings_toml(load_settings(None, ["net_input.short_side_px=96", "evaluate.short_side_px=128"])))
    changed = load_settings(path, ["net_input.short_side_px=200"])
    assert (changed.mine.propose.short_side_px, changed.evaluate.short_side_px) == (200, 128)
