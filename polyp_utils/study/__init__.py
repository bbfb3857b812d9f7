"""Where the Dice of the rebuilt model card can come from.

It may import from `analyse` and what lies below.
"""
