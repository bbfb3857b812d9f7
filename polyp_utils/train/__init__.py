"""From settings and frames to a finished run; and which settings matter.

It may import from `score` and what lies below.
"""
