"""Segment a picture by names, and save what was found.

python examples/segment_and_save.py MODEL PICTURE OUT NAME ...
"""

import sys

from ovseg_models import Segmenter

model, picture, out, *names = sys.argv[1:]

segmenter = Segmenter.load(model)  # a folder that 'ovseg bundle' or 'ovseg import-checkpoint' wrote
segmentation = segmenter.segment(picture, names)

for name in segmentation:
    print(f"{name}: {segmentation[name].float().mean():.0%} of the picture")  # a mask, True where the class is
print(segmentation.save(out))  # label map, painted picture, and JSON of all masks
