"""The model put to work: what it finds in frames without masks, and a page to look at it.

It may import from `deploy` and what lies below.
"""
