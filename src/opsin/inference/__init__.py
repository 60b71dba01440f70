"""Use a finished run on images: the same code for the command line, the report and the explorer."""

from opsin.inference.predictor import Prediction, Predictor, open_predictor

__all__ = ["Prediction", "Predictor", "open_predictor"]
