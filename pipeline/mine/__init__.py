"""Stage 2: mine mask-noun pairs from captions, proposals and CLIP (OVSeg, section 3.2)."""
