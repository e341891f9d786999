"""Stage 3: adapting CLIP to masked crops (OVSeg, sections 3.2 and 3.3)."""
