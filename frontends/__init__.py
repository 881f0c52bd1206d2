"""Framework models in: ONNX, PyTorch → Relax with named parameters (``gensyn_tvm.program.Program``)."""
