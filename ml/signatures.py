"""Names of the signatures of a model."""

# Takes serialized tf.Examples.
DEFAULT_SIGNATURE = "serving_default"
# Takes the raw features, one tensor each.
RAW_SIGNATURE = "raw_features"
