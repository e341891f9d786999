"""Plain definitions, a mask per class, that the counts and metrics of evaluation are held against."""

import math

import numpy as np
from scipy import ndimage


def naive_counts(pairs, class_count, ignore_label, radius_px):
    """Count each class's pixels over (label map, prediction) pairs, one mask at a time; [class] each."""
    names = ("true_px", "predicted_px", "intersection_px")
    counts = {f"{prefix}{name}": np.zeros(class_count, int) for prefix in ("", "boundary_") for name in names}
    for true_map, predicted_map in pairs:
        labelled = true_map != ignore_label
        for index in range(class_count):
            true, predicted = true_map == index, (predicted_map == index) & labelled
            for prefix, a, b in (
                ("", true, predicted),
                ("boundary_", *(edge_of(m, radius_px) for m in (true, predicted))),
            ):
                counts[f"{prefix}true_px"][index] += a.sum()
                counts[f"{prefix}predicted_px"][index] += b.sum()
                counts[f"{prefix}intersection_px"][index] += (a & b).sum()
    return counts


def edge_of(mask, radius_px):
    """Erode the mask by a 3 x 3 square, again and again, and take what went away."""
    return mask & ~ndimage.binary_erosion(mask, np.ones((3, 3)), iterations=radius_px, border_value=0)


def naive_metrics(pairs, class_count, ignore_label, marks, radius_px=1):
    """Compute the metrics class by class, as they are defined."""
    c = naive_counts(pairs, class_count, ignore_label, radius_px)
    ious, boundary_ious, accuracies, weighted = {}, {}, {}, 0.0
    total = int(c["true_px"].sum())
    for k in range(class_count):
        union = c["true_px"][k] + c["predicted_px"][k] - c["intersection_px"][k]
        if union:
            ious[k] = c["intersection_px"][k] / union
        if c["true_px"][k]:
            accuracies[k] = c["intersection_px"][k] / c["true_px"][k]
            weighted += c["true_px"][k] / total * ious[k]
            edge = c["boundary_true_px"][k] + c["boundary_predicted_px"][k] - c["boundary_intersection_px"][k]
            boundary_ious[k] = c["boundary_intersection_px"][k] / edge
    found = {
        "fwiou": weighted if total else math.nan,
        "macc": mean(accuracies.values()),
        "pacc": c["intersection_px"].sum() / total if total else math.nan,
        "boundary_iou": mean(boundary_ious.values()),
    }
    for ending, counting in (("", ious.keys()), ("_present", accuracies.keys())):
        found[f"miou{ending}"] = mean(ious[k] for k in counting)
        seen, unseen = (mean(ious[k] for k in counting if marks[k] == mark) for mark in ("seen", "unseen"))
        found[f"seen_miou{ending}"], found[f"unseen_miou{ending}"] = seen, unseen
        found[f"harmonic_miou{ending}"] = 0.0 if seen + unseen == 0 else 2 * seen * unseen / (seen + unseen)
    return found


def mean(values):
    values = list(values)
    return sum(values) / len(values) if values else math.nan
