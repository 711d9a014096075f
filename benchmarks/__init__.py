import ml  # noqa: F401  First: it sets which Keras TensorFlow takes.
