"""A trained model for use: loaded for frames of any size, or written as ONNX.

It may import from `study` and what lies below.
"""
