"""i2node: keep one directory tree mirrored on another host, continuously."""

__version__ = "0.1.0"
