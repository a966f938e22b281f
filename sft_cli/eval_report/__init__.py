"""``report.html`` of the evaluations of a run: scores with intervals, and every item. Does not import torch."""
