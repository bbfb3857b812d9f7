"""Data sets: where they come from, what their pixels mean, how they are split and loaded.

It may import from `common`.
"""
