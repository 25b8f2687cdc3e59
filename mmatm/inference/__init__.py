"""Predictions for images, folders, URLs and videos, on top of mm's inferencers."""

from .inputs import Image, Images
from .prediction import Prediction
from .predictor import Predictor
from .writing import Writer

__all__ = ['Image', 'Images', 'Prediction', 'Predictor', 'Writer']
