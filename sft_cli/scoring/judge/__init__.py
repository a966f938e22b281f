"""Score answers with a language model as the judge, and audit the judge in the same run. Does not import torch."""
