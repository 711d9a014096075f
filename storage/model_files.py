"""The name of a model's file that servers watch for, apart from all that reads it."""

SAVED_MODEL = "saved_model.pb"
