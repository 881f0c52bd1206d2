"""GPUs: kernels as source text for CUDA or OpenCL, and what a machine has to know to launch them."""

from gensyn_tvm.targets.gpu.program import DeviceProgram, Launch
from gensyn_tvm.targets.gpu.target import CUDA, GPU_TARGETS, OPENCL, GpuTarget

__all__ = ["CUDA", "GPU_TARGETS", "OPENCL", "DeviceProgram", "GpuTarget", "Launch"]
