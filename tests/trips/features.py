"""The columns of the trips, by what the model makes of them."""

LABEL = "delayed"
TIME = "time_hour"

# Strings that become ids of a vocabulary.
VOCABULARIES = ("company", "origin", "dest")

# Integers that are ids already, by how many there are.
IDS = {"hour": 24}

SCHEDULE = ("day_of_week", "sched_dep_time", "sched_arr_time", "distance")
WEATHER = (
    "temp",
    "dewp",
    "humid",
    "wind_dir",
    "wind_speed",
    "wind_gust",
    "precip",
    "pressure",
    "visib",
)

# What a request has to hold: everything the model reads, and nothing else.
RAW_FEATURES = (*VOCABULARIES, *SCHEDULE, *WEATHER)

# Transformed features: all numbers, and how much a row counts in training.
NUMERIC = "numeric"
WEIGHT = "weight"

# By whose values the model is evaluated.
SLICES = ("company", "origin")

# Takes RAW_FEATURES, one tensor each.
RAW_SIGNATURE = "raw_features"

# The model's only output.
PROBABILITY = "probability"

# What a trip is by its label, 0 or 1, as TensorFlow Serving's Classify says it.
CLASSES = ("on time", "delayed")
