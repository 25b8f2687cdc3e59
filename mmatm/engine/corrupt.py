"""Corrupted images, to measure robustness (arXiv 1907.07484)."""

from typing import Any

import numpy as np
from mmengine.registry import TRANSFORMS


@TRANSFORMS.register_module()
class Corrupt:
    """Corrupt images with the package ``imagecorruptions``.

    mmdet 3.3 has a transform of this name and function, and its ``test_robustness.py`` needs it.
    OneDL's mmdet no longer has it, and finds this one instead, as mmseg and mmpretrain do.

    Args:
        corruption: name, such as ``gaussian_noise``.
        severity: 1 (slight) to 5.

    Raises:
        ImportError: ``imagecorruptions`` is not installed.
    """

    def __init__(self, corruption: str, severity: int = 1):
        try:
            from imagecorruptions import corrupt
        except ImportError:
            raise ImportError(
                'corrupted images need imagecorruptions: run "pip install imagecorruptions-imaug"'
            ) from None
        self._corrupt = corrupt
        self.corruption = corruption
        self.severity = severity

    def __call__(self, results: dict[str, Any]) -> dict[str, Any]:
        """Replace ``img``, ``[H, W, 3]`` in 0 to 255, by uint8."""
        image = results['img'].astype(np.uint8)
        results['img'] = self._corrupt(
            image, corruption_name=self.corruption, severity=self.severity
        )
        return results

    def __repr__(self) -> str:
        return f'{type(self).__name__}(corruption={self.corruption}, severity={self.severity})'
