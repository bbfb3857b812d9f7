"""Polyp segmentation research that anyone can rerun: the package computes, the notebooks explain.

Nothing is imported or computed here; take what you need from the modules, e.g.
``from polyp_utils.model.unet import UNet``.
"""

__version__ = "0.1.0"
