"""Schedules for GPUs: threads over the elements of each stage; what is reduced is one thread's, in order."""

from gensyn_tvm.schedules.gpu.nests import schedule_nests

__all__ = ["schedule_nests"]
