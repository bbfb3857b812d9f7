"""Trains runs from their settings, and measures which settings matter.

It may import from `score` and what lies below.
"""
