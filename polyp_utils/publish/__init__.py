"""What is shown of runs: their model cards, the Hub, the tables of the documents.

It may import from every room but `plots`.
"""
