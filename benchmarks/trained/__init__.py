"""Trained ONNX models that PyPI packages ship, through the tool as they are."""
