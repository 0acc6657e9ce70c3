"""Everything that is made before serving: questions, measured curves, trained predictors, ONNX files."""
