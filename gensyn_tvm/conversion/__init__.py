"""A model of any framework in, a ``.gtvm`` file out, compared with its framework on the way: ``convert.py``."""
