"""What the data contain, where and why a run fails, and how certain it is.

It may import from `train` and what lies below.
"""
