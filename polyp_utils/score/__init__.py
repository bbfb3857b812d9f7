"""Scores of predictions against masks, with intervals, and published figures for comparison.

It may import from `common`, `data`, `model` and `runs`.
"""
