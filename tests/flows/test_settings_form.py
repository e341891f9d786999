"""Settings of a run that is started from Prefect's pages: what its form offers, and what comes of it."""

from typing import Any

import pytest

from pipeline.settings import load_settings, settings_document


@pytest.fixture
def ovseg_flow(prefect_api: str) -> Any:
    """Import the flow with Prefect's environment set, which Prefect reads when it is imported."""
    del prefect_api
    from flows.ovseg_flow import ovseg_flow

    return ovseg_flow


def test_a_form_shows_each_setting_and_no_default_of_what_is_inherited(ovseg_flow):
    from prefect.utilities.callables import parameter_schema

    sections = parameter_schema(ovseg_flow.fn).definitions
    assert sections["NetInputSettings"]["properties"]["short_side_px"]["default"] == 512
    short_side = sections["ProposeSettings"]["properties"]["short_side_px"]
    assert (short_side["minimum"], "default" in short_side) == (16, False)


def test_stages_inherit_what_a_form_sends(ovseg_flow):
    form = {"net_input": {"short_side_px": 96}, "mine": {"propose": {"max_side_px": 1000}}, "precision": "bf16"}
    settings = ovseg_flow.validate_parameters({"settings": form})["settings"]
    flags = ["net_input.short_side_px=96", "mine.propose.max_side_px=1000", "precision=bf16"]
    assert settings == load_settings(None, flags)
    assert (settings.mine.propose.short_side_px, settings.evaluate.precision) == (96, "bf16")


def test_what_a_form_is_filled_in_with_still_inherits(ovseg_flow):
    settings = load_settings(None, ["net_input.short_side_px=96", "evaluate.short_side_px=128"])
    form = settings_document(settings)
    assert ovseg_flow.validate_parameters({"settings": form})["settings"] == settings
    form["net_input"]["short_side_px"] = 200  # as somebody may who fills in the form
    changed = ovseg_flow.validate_parameters({"settings": form})["settings"]
    assert (changed.mine.propose.short_side_px, changed.evaluate.short_side_px) == (200, 128)
