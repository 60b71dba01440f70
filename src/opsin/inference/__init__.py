"""What a finished run says of images: one function for the command line, the report and the explorer."""

from opsin.inference.predictor import Answer, Predictor, open_predictor

__all__ = ["Answer", "Predictor", "open_predictor"]
