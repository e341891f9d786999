"""Part-of-speech taggers for captions: one that the project ships, NLTK's own, and spaCy."""
