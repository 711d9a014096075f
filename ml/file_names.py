"""Names of the files in artifacts, for those who read them without TFX."""

from __future__ import annotations

# The layouts of TFX 1.x; `tfx.v1` has no helper for them.
SCHEMA_FILE = "schema.pbtxt"
STATISTICS_FILE = "FeatureStats.pb"
ANOMALIES_FILE = "SchemaDiff.pb"

BLESSED_FILE, NOT_BLESSED_FILE = "BLESSED", "NOT_BLESSED"
# In an `InfraBlessing`, as the stock InfraValidator writes it.
INFRA_BLESSED_FILE, INFRA_NOT_BLESSED_FILE = "INFRA_BLESSED", "INFRA_NOT_BLESSED"
REPORT_FILE = "report.json"
# In a `ModelRun`: the course of training, written by `run_fn`.
TRAINING_FILE = "training.json"
TUNING_FILE = "tuning.json"

# In a `ModelEvaluation`, beside TFMA's files: why a model was, or was not, blessed; the model in
# comparison with its baselines; metrics by slice, with intervals and thresholds; curves.
VERDICT_FILE = "verdict.json"
COMPARISON_FILE = "baselines.json"
SUMMARY_FILE = "summary.json"
CURVES_FILE = "curves.json"
FAIRNESS_FILE = "fairness.json"
# What the Explainer writes.
EXPLANATIONS_FILE = "explanations.json"
