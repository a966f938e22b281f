"""Jinja for templates and expressions of strangers: they read what they are given, and cost no more than they may."""
