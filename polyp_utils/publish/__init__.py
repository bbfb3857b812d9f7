"""Publishes runs: run cards, published folders, the Hub, and the tables of the documents.

It may import from every package except `plots`.
"""
