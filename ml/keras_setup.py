"""Saves ten seconds in every process that trains or saves a network."""

from tensorflow.python.autograph.core import config

# What these libraries do with tensors, they do by TensorFlow's operations, and their `if` and `for`
# are about Python values: there is nothing to convert. TensorFlow Transform traces a
# `preprocessing_fn` without autograph in any case.
_LIBRARIES = ("tf_keras", "tensorflow_transform", "tensorflow_model_optimization")


def skip_autograph_of_libraries() -> None:
    """Stops autograph from converting the code of libraries; a model's own code is converted.

    TensorFlow 2.16 takes 12 s to convert all of tf_keras on the first `fit` of a process, and
    several more for the layers of TensorFlow Transform and tfmot, to no effect. Later versions have
    this rule built in for Keras alone; there is no public way to add one.
    """
    known = {str(rule) for rule in config.CONVERSION_RULES}
    rules = [config.DoNotConvert(name) for name in _LIBRARIES]
    config.CONVERSION_RULES = (
        *(rule for rule in rules if str(rule) not in known),
        *config.CONVERSION_RULES,
    )
