"""A study of class-incremental learning with dual memory (IL2M, ICCV 2019)."""

__version__ = "0.2.0"
