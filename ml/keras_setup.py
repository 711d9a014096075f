"""Spares every process that trains with tf_keras ten seconds."""

from tensorflow.python.autograph.core import config


def skip_autograph_of_keras() -> None:
    """Keeps autograph from converting tf_keras's own code on the first `fit` of a process.

    TensorFlow 2.16 converts all of tf_keras, which has nothing to convert, and needs 12 s for it.
    Later versions have this rule built in; there is no public way to add one.
    """
    rule = config.DoNotConvert("tf_keras")
    if not any(str(rule) == str(known) for known in config.CONVERSION_RULES):
        config.CONVERSION_RULES = (rule, *config.CONVERSION_RULES)
