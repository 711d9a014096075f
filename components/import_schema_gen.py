"""ImportSchemaGen: the curated schema, with what nodes need of it."""

import json

from google.protobuf import text_format
from tensorflow_metadata.proto.v0 import schema_pb2
from tfx import v1 as tfx

from ml.artifacts import schema_uri
from ml.complete_schema import complete_schema
from storage.errors import UserError, one_line


@tfx.dsl.components.component
def ImportSchemaGen(
    schema: tfx.dsl.components.OutputArtifact[tfx.types.standard_artifacts.Schema],
    schema_file: tfx.dsl.components.Parameter[str],
    label: tfx.dsl.components.Parameter[str],
    features: tfx.dsl.components.Parameter[str],
    time_column: tfx.dsl.components.Parameter[str],
    example_weight: tfx.dsl.components.Parameter[str],
) -> None:
    """Imports a schema as TFX's ImportSchemaGen does, and completes it.

    A schema that `tfdv.infer_schema` made has no environments and no tensor representations.

    Example:
      schema_gen = ImportSchemaGen(
          schema_file="schema/my_model.pbtxt",
          label="tip",
          features='["x"]',
          time_column="time",
          example_weight="",
      )

    Args:
      schema: Component `outputs` contains: the schema, the very file if that is complete.
      schema_file: Path of the schema, a text protocol buffer.
      label: The feature that the model predicts.
      features: JSON list of the features of a request.
      time_column: The time of a row; "" for none.
      example_weight: The weight of a row; "" for none.

    Raises:
      UserError: If the file is no schema, or does not suit the model.
    """
    target = schema_uri(schema)
    try:
        with tfx.dsl.io.fileio.open(schema_file, "r") as file:
            text = file.read()
        given = text_format.Parse(text, schema_pb2.Schema())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        reason = one_line(error)
        raise UserError(f"{schema_file} is no schema: {reason} (gate.schema)") from error
    try:
        whole = complete_schema(given, label, json.loads(features), time_column, example_weight)
    except UserError as error:
        raise UserError(f"{schema_file}: {error} (gate.schema)") from error
    with tfx.dsl.io.fileio.open(target, "w") as file:
        file.write(text if _same(whole, given) else text_format.MessageToString(whole))


def _same(one: schema_pb2.Schema, other: schema_pb2.Schema) -> bool:
    """Whether schemas are equal; by their bytes, because a NaN does not equal itself."""
    first, second = (each.SerializeToString(deterministic=True) for each in (one, other))
    return bool(first == second)
