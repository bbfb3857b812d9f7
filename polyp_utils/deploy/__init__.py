"""Trained models in use: loaded for frames of any size, or exported as ONNX.

It may import from `study` and what lies below.
"""
