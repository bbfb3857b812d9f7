"""From predictions and masks to scores with intervals, and beside others' figures.

It may import from `common`, `data`, `model` and `runs`.
"""
