"""What adapting CLIP changes, as one HTML page: the four rows with differences and intervals, by class, by picture."""
