"""A model put to work: from frames, folders and videos to masks, tables and a page to look at.

It may import from `deploy` and what lies below.
"""
