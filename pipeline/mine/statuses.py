"""Why a row of mining holds no result, as the slugs that stand in its column ``status``."""

UNDECODABLE = "image_undecodable"
NO_CAPTION = "no_caption"
NO_NOUN = "no_noun"
NO_PROPOSALS = "no_proposals"
NO_LABEL = "no_label"
NO_CLASS = "no_class"
EMPTY_MASK = "empty_mask"
NOT_FINITE = "embedding_not_finite"
SCORE_NOT_FINITE = "score_not_finite"
SCORE_BELOW_MIN = "score_below_min"
AREA_BELOW_MIN = "area_below_min"

EXPECTED = frozenset({NO_CAPTION, NO_NOUN, NO_PROPOSALS, NO_LABEL, NO_CLASS, SCORE_BELOW_MIN, AREA_BELOW_MIN})
"""What is no failure: the data or the settings ask for it."""
