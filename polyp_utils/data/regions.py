"""Connected regions of a mask."""

import numpy as np
from skimage import measure

from polyp_utils.data.labels import SPECK_SHARE


def components(polyp: np.ndarray) -> list[np.ndarray]:
    """8-connected regions of a bool mask (H, W) except specks, each as a mask."""
    labels = measure.label(polyp, connectivity=2)
    sizes = np.bincount(labels.ravel())
    return [labels == i for i in range(1, len(sizes)) if sizes[i] >= SPECK_SHARE * polyp.size]
