"""What is in the data, where and why a run fails, and how sure it is.

It may import from `train` and what lies below.
"""
