"""Run the nets once on a picture, then ask it for any number of names, each on its own.

python examples/ask_many_names.py MODEL PICTURE NAME ...
"""

import sys
import time

from ovseg_models import Segmenter

model, picture, *names = sys.argv[1:]

segmenter = Segmenter.load(model)
start = time.perf_counter()
encoded = segmenter.encode(picture)  # the slow part: masks, and what CLIP sees in each
print(f"encoded in {time.perf_counter() - start:.2f} s")

for name in names:
    start = time.perf_counter()
    found = segmenter.find(encoded, [name])  # the best mask for the name, compared with "others"
    share = found[name].float().mean()
    print(f"{name}: {share:.1%} of the picture, {time.perf_counter() - start:.3f} s")
