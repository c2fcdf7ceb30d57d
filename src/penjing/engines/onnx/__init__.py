"""The ONNX graph, its export, and packed folders."""
