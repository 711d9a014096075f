"""Names of the strategies of serving."""

REPLACE, CHALLENGE = "retrain-and-replace", "champion-challenger"
STRATEGIES = (REPLACE, CHALLENGE)
