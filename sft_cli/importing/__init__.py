"""Recipes from the configs of other tools: axolotl, LLaMA-Factory and TRL."""
