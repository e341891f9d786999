"""A tokenizer for small CLIP models: one token per known word."""

import re
from collections import Counter
from collections.abc import Collection, Sequence

import torch
from jaxtyping import Int64
from torch import Tensor

_WORD = re.compile(r"[^\W_]+")  # letters and digits of any script
_PADDING = 0
_SHOWN_NAMES, _SHOWN_WORDS = 5, 120
_RESERVED_TOKENS = 3  # padding, start, end


class WordTokenizer:
    """Maps texts to tokens, one per word of a fixed list.

    Texts are lower-cased and split at everything that is no letter or digit; words outside the list are dropped:
    a token for all unknown words would have no trained meaning. Tokens: 0 pads, 1 and up are the words in
    their order, then comes the start of a text, and the end of a text is the largest of all: open_clip takes a text's
    embedding at the position of the largest token. A text that is too long loses its last words, never its end.

    Attributes:
        words: The list.
        context_length: Tokens of each text, start, end and padding included.
        vocab_size: Number of different tokens; the text tower's ``vocab_size``.
    """

    def __init__(self, words: Sequence[str], context_length: int) -> None:
        """Take a word list.

        Args:
            words: Different, lower-case, each one run of letters and digits.
            context_length: At least 3.

        Raises:
            ValueError: If a word could never occur or occurs twice, or the length is too small.
        """
        for word in words:
            if not isinstance(word, str) or split_words(word) != [word]:
                raise ValueError(
                    f"word tokenizer: {word!r:.60} can never match; lower-case words without blanks or signs are "
                    "expected"
                )
        if len(set(words)) != len(words):
            twice = sorted(word for word, times in Counter(words).items() if times > 1)
            raise ValueError(f"word tokenizer: {twice[:10]} occur more than once; list each word once")
        if context_length < _RESERVED_TOKENS:
            raise ValueError(f"word tokenizer: context_length is {context_length}, at least 3 is expected; raise it")
        self.words = tuple(words)
        self.context_length = context_length
        self.vocab_size = len(self.words) + _RESERVED_TOKENS
        self._token_of_word = {word: token for token, word in enumerate(self.words, start=_PADDING + 1)}
        self._start, self._end = self.vocab_size - 2, self.vocab_size - 1

    def __call__(self, texts: str | Sequence[str], context_length: int | None = None) -> Int64[Tensor, "text context"]:
        """Tokenise texts; ``context_length`` overrides the tokenizer's own, as in open_clip's tokenizers."""
        texts = [texts] if isinstance(texts, str) else texts
        length = context_length or self.context_length
        tokens = torch.full((len(texts), length), _PADDING)
        for row, text in zip(tokens, texts, strict=True):
            known = [self._token_of_word[word] for word in split_words(text) if word in self._token_of_word]
            sequence = [self._start, *known[: length - 2], self._end]
            row[: len(sequence)] = torch.tensor(sequence)
        return tokens

    def unknown(self, names: Sequence[str]) -> list[str]:
        """Return the names without a known word: as texts they are all the same."""
        return [name for name in names if not any(word in self._token_of_word for word in split_words(name))]

    def check_names(self, names: Sequence[str], *, no_names: Collection[str] = ()) -> str:
        """Refuse class names without a known word, and warn of those that are known in part.

        Args:
            no_names: Words that name nothing alone, such as those of the sentences around class names.

        Returns:
            A warning with the words that are dropped, and with names that become the same without them; empty if all
            words are known.

        Raises:
            ValueError: With the names without a known word, and the words that can be used.
        """
        known_of = {name: tuple(word for word in split_words(name) if word in self._token_of_word) for name in names}
        empty = [name for name, known in known_of.items() if not set(known) - set(no_names)]
        if empty:
            usable = sorted(set(self.words) - set(no_names))
            more = f" and {len(usable) - _SHOWN_WORDS} more" if len(usable) > _SHOWN_WORDS else ""
            raise ValueError(
                f"class names: this CLIP knows no word of {empty[:_SHOWN_NAMES]}, it would name them at random; it "
                f"knows {', '.join(usable[:_SHOWN_WORDS])}{more}; use these words, or a segmenter with a published CLIP"
            )
        dropped = {name: [word for word in split_words(name) if word not in known_of[name]] for name in names}
        parts = [f"{name!r} without {', '.join(words)}" for name, words in dropped.items() if words]
        if not parts:
            return ""
        alike: dict[tuple[str, ...], list[str]] = {}
        for name, known in known_of.items():
            alike.setdefault(known, []).append(name)
        same = [f"{' = '.join(map(repr, group[:_SHOWN_NAMES]))}" for group in alike.values() if len(group) > 1]
        apart = f"; it cannot distinguish {'; '.join(same[:_SHOWN_NAMES])}" if same else ""
        return f"class names: this CLIP does not know all words, it reads {'; '.join(parts[:_SHOWN_NAMES])}{apart}"


def split_words(text: str) -> list[str]:
    """Split a text into the lower-case words that a `WordTokenizer` looks up."""
    return _WORD.findall(text.lower())
