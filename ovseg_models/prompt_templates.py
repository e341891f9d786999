"""Sentences that a class name is put into before CLIP's text tower reads it."""

BARE = ("{}",)
SINGLE = ("a photo of a {}.",)
VILD = (
    "a photo of a {}.",
    "This is a photo of a {}",
    "There is a {} in the scene",
    "There is the {} in the scene",
    "a photo of a {} in the scene",
    "a photo of a small {}.",
    "a photo of a medium {}.",
    "a photo of a large {}.",
    "This is a photo of a small {}.",
    "This is a photo of a medium {}.",
    "This is a photo of a large {}.",
    "There is a small {} in the scene.",
    "There is a medium {} in the scene.",
    "There is a large {} in the scene.",
)
"""Of ViLD (Gu et al., 2022), as OVSeg trains and tests with; the second to fifth lack the full stop there too."""


_SHIPPED = {"bare": BARE, "single": SINGLE, "vild": VILD}
PROMPT_TEMPLATE_NAMES = (*_SHIPPED, "imagenet")


def prompt_templates(name: str) -> tuple[str, ...]:
    """Return the templates of a name, each with one ``{}`` for the class name.

    Args:
        name: "bare" (the name alone), "single" (one sentence), "vild" (14) or "imagenet" (80).

    Raises:
        ValueError: If there are no templates of that name.
    """
    if name == "imagenet":
        from open_clip import OPENAI_IMAGENET_TEMPLATES  # which open_clip keeps as functions

        return tuple(template("{}") for template in OPENAI_IMAGENET_TEMPLATES)
    if name not in _SHIPPED:
        raise ValueError(
            f"prompt_templates: {name!r} is unknown, one of {PROMPT_TEMPLATE_NAMES} is expected; correct the setting"
        )
    return _SHIPPED[name]
