"""Run folders, and the predictions of a run or any other system.

It may import from `common`, `data` and `model`.
"""
