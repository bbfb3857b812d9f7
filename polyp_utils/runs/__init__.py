"""The run folder, and what a run or any other system says of each frame.

It may import from `common`, `data` and `model`.
"""
