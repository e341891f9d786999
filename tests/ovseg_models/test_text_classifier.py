"""Text embeddings: what they are, and when they are computed again."""

import open_clip
import pytest
import torch

from ovseg_models.pretrained_clip import build_clip
from ovseg_models.prompt_templates import prompt_templates
from ovseg_models.text_classifier import TextClassifier, encode_related_texts, encode_text

NAMES = ["boat", "cow", "road, route", "kite"]
VILD = prompt_templates("vild")


@pytest.fixture
def clip(tiny_clip_config):
    return build_clip(tiny_clip_config)


class CountingTokenizer:
    """Notes every sentence that is tokenised."""

    def __init__(self):
        self.tokenizer = open_clip.SimpleTokenizer(context_length=16)
        self.sentences = []

    def __call__(self, texts):
        self.sentences += texts
        return self.tokenizer(texts)


@pytest.fixture
def tokenize():
    return CountingTokenizer()


def naive_embedding(clip, tokenize, name, templates):
    total = torch.zeros(16)
    for template in templates:
        embedding = clip.encode_text(tokenize([template.format(name)]))[0]
        total += embedding / embedding.norm()
    return total / total.norm()


@pytest.mark.parametrize("texts_per_batch", [1, 5, 256])
@torch.no_grad()
def test_embeddings_equal_the_naive_twin(clip, tokenize, texts_per_batch):
    classifier = TextClassifier(clip, tokenize, texts_per_batch=texts_per_batch)
    expected = torch.stack([naive_embedding(clip, tokenize, name, VILD) for name in NAMES])
    torch.testing.assert_close(classifier.text_embeddings(NAMES, VILD), expected, atol=1e-6, rtol=0)


def test_name_by_name_equals_full_batches_and_has_the_same_bits_in_any_company(clip, tokenize):
    full = TextClassifier(clip, tokenize).text_embeddings(NAMES, VILD)
    together = TextClassifier(clip, tokenize, name_by_name=True).text_embeddings(NAMES, VILD)
    torch.testing.assert_close(together, full, atol=1e-6, rtol=0)
    for name, embedding in zip(NAMES, together, strict=True):
        alone = TextClassifier(clip, tokenize, name_by_name=True).text_embeddings([name], VILD)
        assert torch.equal(alone[0], embedding)


def test_embeddings_equal_open_clips_classifier(clip, tokenize):
    expected = open_clip.build_zero_shot_classifier(clip, tokenize, NAMES, VILD).T
    found = TextClassifier(clip, tokenize).text_embeddings(NAMES, VILD)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_order_blanks_and_repetitions(clip, tokenize):
    classifier = TextClassifier(clip, tokenize)
    plain = classifier.text_embeddings(NAMES, VILD)
    found = classifier.text_embeddings([" kite", "boat", "kite ", "boat"], VILD)
    assert torch.equal(found, plain[[3, 0, 3, 0]])


def test_only_missing_names_are_computed(clip, tokenize):
    classifier = TextClassifier(clip, tokenize)
    first = classifier.text_embeddings(["boat", "cow", "boat"], VILD)
    assert len(tokenize.sentences) == 2 * 14
    second = classifier.text_embeddings(["kite", "cow"], VILD)
    assert len(tokenize.sentences) == 3 * 14
    assert torch.equal(second[1], first[1])
    classifier.text_embeddings(["cow"], ["a {}"])
    assert tokenize.sentences[3 * 14 :] == ["a cow"]


def by_optimizer(clip):
    shape = clip.token_embedding.weight.shape
    clip.token_embedding.weight.grad = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    torch.optim.SGD([clip.token_embedding.weight], lr=0.1).step()


def by_loading(clip):
    clip.load_state_dict({name: tensor + 0.1 for name, tensor in clip.state_dict().items()})


def by_unseen_write(clip):
    clip.ln_final.weight.data.copy_(torch.linspace(1, 2, 8))


def by_another_tensor(clip):
    clip.text_projection = torch.nn.Parameter(torch.randn(8, 16, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("change", [by_optimizer, by_loading, by_unseen_write, by_another_tensor])
def test_a_changed_tower_gives_new_embeddings(clip, tokenize, change):
    classifier = TextClassifier(clip, tokenize)
    before = classifier.text_embeddings(NAMES, VILD)
    change(clip)
    found = classifier.text_embeddings(NAMES, VILD)
    assert not torch.allclose(found, before, atol=1e-4)
    assert torch.equal(found, TextClassifier(clip, tokenize).text_embeddings(NAMES, VILD))


def test_a_tower_changed_back_needs_no_computation(clip, tokenize):
    classifier = TextClassifier(clip, tokenize)
    original = {name: tensor.clone() for name, tensor in clip.state_dict().items()}
    before = classifier.text_embeddings(NAMES, VILD)
    by_optimizer(clip)
    classifier.text_embeddings(NAMES, VILD)
    sentences = len(tokenize.sentences)
    clip.load_state_dict(original)
    assert torch.equal(classifier.text_embeddings(NAMES, VILD), before)
    assert len(tokenize.sentences) == sentences


def test_a_changed_image_tower_changes_nothing(clip, tokenize):
    classifier = TextClassifier(clip, tokenize)
    classifier.text_embeddings(NAMES, VILD)
    torch.nn.init.zeros_(clip.visual.proj)
    torch.nn.init.zeros_(clip.logit_scale)
    sentences = len(tokenize.sentences)
    classifier.text_embeddings(NAMES, VILD)
    assert len(tokenize.sentences) == sentences


def test_synonyms_stay_whole_unless_split(clip, tokenize):
    classifier = TextClassifier(clip, tokenize)
    whole, road, route = classifier.text_embeddings(["road, route", "road", "route"], VILD)
    (split,) = classifier.text_embeddings(["road, route,"], VILD, split_synonyms=True)
    mean = (road + route) / 2
    torch.testing.assert_close(split, mean / mean.norm())
    assert not torch.allclose(split, whole, atol=1e-4)
    assert "There is the road, route in the scene" in tokenize.sentences


def test_embeddings_do_not_depend_on_the_precision_around(clip, tokenize):
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = TextClassifier(clip, tokenize).text_embeddings(NAMES, VILD)
    assert found.dtype == torch.float32
    assert torch.equal(found, TextClassifier(clip, tokenize).text_embeddings(NAMES, VILD))


def test_embeddings_can_be_used_where_gradients_are_taken(clip, tokenize):
    found = TextClassifier(clip, tokenize).text_embeddings(NAMES, VILD)
    assert not found.requires_grad
    queries = torch.ones(2, 16, requires_grad=True)
    (queries @ found.T).sum().backward()
    torch.testing.assert_close(queries.grad[0], found.sum(dim=0))


def test_bad_requests_are_refused(clip, tokenize):
    classifier = TextClassifier(clip, tokenize)
    with pytest.raises(ValueError, match="there are no class names, at least one is expected; give a vocabulary"):
        classifier.text_embeddings([], VILD)
    with pytest.raises(ValueError, match="a class name is '  ', a word is expected; correct the vocabulary"):
        classifier.text_embeddings(["boat", "  "], VILD)
    with pytest.raises(ValueError, match="templates are 'vild', a list of at least one sentence is expected"):
        classifier.text_embeddings(["boat"], "vild")
    with pytest.raises(ValueError, match=r"templates are \(\), a list of at least one sentence is expected"):
        classifier.text_embeddings(["boat"], ())
    with pytest.raises(ValueError, match=r"template 'a photo' is expected with exactly one \{\} for the class name"):
        classifier.text_embeddings(["boat"], ["a photo"])
    with pytest.raises(ValueError, match="texts_per_batch is 0, at least 1 is expected"):
        TextClassifier(clip, tokenize, texts_per_batch=0)


TEXTS = ["a", "a photo of a boat.", "There is a large traffic light in the scene.", ""]


@torch.no_grad()
def test_equals_open_clip_and_reads_no_padding(tiny_clip_config, monkeypatch):
    clip = build_clip(tiny_clip_config)
    tokens = open_clip.SimpleTokenizer(context_length=16)(TEXTS)
    expected = clip.encode_text(tokens)
    lengths = []
    forward = clip.transformer.forward
    monkeypatch.setattr(
        clip.transformer,
        "forward",
        lambda states, **kwargs: lengths.append(states.shape[1]) or forward(states, **kwargs),
    )
    torch.testing.assert_close(encode_text(clip, tokens), expected, atol=1e-6, rtol=0)
    torch.testing.assert_close(encode_text(clip, tokens[:2]), expected[:2], atol=1e-6, rtol=0)
    assert lengths == [12, 8]
    assert encode_text(clip, tokens[:0]).shape == (0, 16)


@pytest.mark.parametrize("templates", ["bare", "single", "vild", "imagenet"])
@pytest.mark.parametrize("noun", ["dog", "unpronounceable xylophone", "."])
@torch.no_grad()
def test_texts_that_begin_alike_give_what_open_clip_gives(tiny_clip_config, templates, noun):
    clip = build_clip(tiny_clip_config).double()
    texts = [template.format(noun) for template in prompt_templates(templates)]
    tokens = open_clip.SimpleTokenizer(context_length=16)([*texts, texts[0], ""])
    torch.testing.assert_close(encode_related_texts(clip, tokens), clip.encode_text(tokens), atol=1e-12, rtol=0)


@torch.no_grad()
def test_what_texts_begin_with_is_read_once(tiny_clip_config, monkeypatch):
    clip = build_clip(tiny_clip_config)
    shapes = []
    forward = clip.transformer.forward
    monkeypatch.setattr(
        clip.transformer,
        "forward",
        lambda states, **kwargs: shapes.append(tuple(states.shape[:2])) or forward(states, **kwargs),
    )
    tokenize = open_clip.SimpleTokenizer(context_length=16)
    encode_related_texts(clip, tokenize(["a big dog", "a big cat", "a"]))  # start, a, big, dog, end, cat, end, end
    encode_related_texts(clip, tokenize([template.format("dog") for template in prompt_templates("vild")]))
    assert shapes == [(1, 8), (1, 79)]
    assert encode_related_texts(clip, tokenize(["a"])[:0]).shape == (0, 16)


@pytest.mark.parametrize("encode", [encode_text, encode_related_texts])
@pytest.mark.parametrize("change", ["no_causal_mask", "eos", "linear"])
@torch.no_grad()
def test_towers_of_other_forms_give_what_open_clip_gives(tiny_clip_config, change, encode):
    text = dict(tiny_clip_config["text_cfg"])
    text |= {"no_causal_mask": {"no_causal_mask": True}, "eos": {"pool_type": "eos", "eos_id": 49407}, "linear": {}}[
        change
    ]
    config = tiny_clip_config | {"text_cfg": text | ({"proj_bias": True} if change == "linear" else {})}
    clip = build_clip(config)
    tokens = open_clip.SimpleTokenizer(context_length=16)(TEXTS)
    torch.testing.assert_close(encode(clip, tokens), clip.encode_text(tokens), atol=5e-6, rtol=0)
