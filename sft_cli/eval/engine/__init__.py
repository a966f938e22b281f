"""The engine of evaluations: prompts as served, answers, and log-likelihoods."""
