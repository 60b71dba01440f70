"""What a finished run says of images: one function for the command line, the report and the explorer."""

from opsin.inference.predictor import Prediction, Predictor, open_predictor

__all__ = ["Prediction", "Predictor", "open_predictor"]
