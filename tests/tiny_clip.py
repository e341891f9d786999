"""A CLIP of random weights, small enough to be trained hundreds of times, as stages load it."""

from ovseg_models.pretrained_clip import build_mask_adapted_clip
from ovseg_models.weights import weights_digest
from ovseg_models.word_tokenizer import WordTokenizer
from pipeline.clip_loading import LoadedClip
from pipeline.drawn_world.words import WORDS

TOKENIZER = WordTokenizer([word for word in WORDS if word.isalpha()], 8)
CONFIG = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 16, "patch_size": 4, "width": 16, "head_width": 8, "layers": 4},
    "text_cfg": {"context_length": 8, "vocab_size": TOKENIZER.vocab_size, "width": 8, "heads": 2, "layers": 2},
}


def tiny_loaded_clip(seed: int = 0) -> LoadedClip:
    """Return random weights of a seed; names differ in their text embeddings."""
    built = build_mask_adapted_clip(CONFIG, prompt_depth=0, seed=seed)
    built.clip.token_embedding.weight.data.mul_(50)
    digest = weights_digest(built.clip.state_dict())
    return LoadedClip(built.clip, TOKENIZER, TOKENIZER, digest, dict(built.arguments["model"]))
