"""Hypotheses about the origin of the Dice in the rebuilt model card.

It may import from `analyse` and what lies below.
"""
