"""Measures speed, against the plain loop that people write and against the machine itself.

It may import from `deploy` and what lies below.
"""
