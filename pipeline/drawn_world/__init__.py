"""The drawn world: generated scenes whose truth is known, on which the whole method can be shown, tested and measured.

Twelve stuff nouns and 42 things. What predicts a thing is its shape, its texture and, since 85 % of things stand on
their home stuff, its surroundings, as in photographs. Read in this order: ``stuff`` (textures of the ground),
``shapes`` and ``things`` (what things are made of), ``layout`` (which things stand where), ``scene`` (painting),
``captions``, ``world`` (the entry point). ``pipeline/prepare/drawn_world.py`` stores its scenes.

``small_clip`` and ``small_proposal_net`` hold the weights that the project ships, trained on this world alone.
"""
