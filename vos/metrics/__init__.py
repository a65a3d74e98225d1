"""How good masks are, as DAVIS defines it: region similarity J, contour accuracy F, their mean, recall and decay."""

from vos.metrics.contour import boundary_map, contour_accuracy, contour_accuracy_of_labels, tolerance
from vos.metrics.frame import measure_labels
from vos.metrics.region import jaccard, jaccard_of_labels
from vos.metrics.statistics import Statistics, decay, recall, statistics

__all__ = [
    "Statistics",
    "boundary_map",
    "contour_accuracy",
    "contour_accuracy_of_labels",
    "decay",
    "jaccard",
    "jaccard_of_labels",
    "measure_labels",
    "recall",
    "statistics",
    "tolerance",
]
